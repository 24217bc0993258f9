#include "verify/posttrain_opd.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "ops/loss/label_logprob.h"
#include "ops/matmul/matmul.h"
#include "ops/quant/act_quant.h"
#include "post/kl_loss.h"
#include "train/final_states.h"
#include "verify/closeness.h"

namespace cachalot::verify {
namespace {

namespace fs = std::filesystem;

constexpr double kLogprob = 2e-5;
constexpr double kKl = 1e-5;
constexpr double kDlogits = 3e-5;  // of the largest
constexpr GradientBounds kGradients = {2e-4, 2e-3, 3e-5};

// Another loss, and the gradient of the logits that it leaves.
class Recorded : public train::LogitsLoss {
 public:
  explicit Recorded(train::LogitsLoss& inner) : inner_(inner) {}
  void add(autograd::Context ctx, const Lot& lot) override {
    inner_.add(ctx, lot);
    const float* d = ctx.tape->grad(lot.logits);
    d_logits.insert(d_logits.end(), d, d + std::ssize(lot.labels) * lot.vocab_size);
  }
  std::vector<double> d_logits;

 private:
  train::LogitsLoss& inner_;
};

struct Teacher {
  std::vector<float> states, head;
};

class OpdVerifier {
 public:
  OpdVerifier(std::string directory, std::string model_directory, PosttrainModel& model,
              GoldenReport& report)
      : directory_(std::move(directory)),
        model_directory_(std::move(model_directory)),
        model_(model),
        report_(report) {}

  Status run() {
    CACHALOT_ASSIGN_OR_RETURN(GoldenTensors file, GoldenTensors::open(path("trajectories")));
    sequences_.emplace(file, model_.config());
    CACHALOT_ASSIGN_OR_RETURN(const GoldenJson settings,
                              GoldenJson::open((fs::path(directory_) / "settings.json").string()));
    CACHALOT_ASSIGN_OR_RETURN(expected_, GoldenTensors::open(path("expected")));
    const std::vector<GoldenJson> teachers = settings["teachers"].elements();
    num_teachers_ = std::ssize(teachers);
    for (int64_t k = 0; k < num_teachers_; ++k) {
      const int64_t d = model_.config().hidden_size;
      Teacher& stored = stored_.emplace_back();
      stored.states = file.floats(fmt::format("hidden.{}", k), num_rows() * d);
      stored.head = file.floats(fmt::format("head.{}", k), model_.config().vocab_size * d);
    }
    CACHALOT_RETURN_IF_ERROR(file.status());
    rounded_ = stored_;
    for (Teacher& teacher : rounded_) {
      for (std::vector<float>* values : {&teacher.states, &teacher.head}) {
        const auto n = std::ssize(*values);
        ops::round_bf16(model_.ctx, {values->data(), 1, n, n});
      }
    }
    for (const GoldenJson& teacher : teachers) {
      CACHALOT_RETURN_IF_ERROR(
          run_teacher(static_cast<uint32_t>(teacher["seed"].integer()), teacher["scale"].number()));
    }
    CACHALOT_RETURN_IF_ERROR(settings.status());
    CACHALOT_RETURN_IF_ERROR(verify_each_teacher());
    CACHALOT_ASSIGN_OR_RETURN(const GoldenJson digests,
                              GoldenJson::open((fs::path(directory_) / "digest.json").string()));
    for (const GoldenJson& setting : settings["settings"].elements())
      CACHALOT_RETURN_IF_ERROR(verify(setting, digests));
    return settings.status();
  }

 private:
  std::string path(const std::string& name) const {
    return (fs::path(directory_) / (name + ".safetensors")).string();
  }
  int64_t num_rows() const { return sequences_->num_response_tokens(); }

  // The model with perturbed weights: its states and head are `direct_`'s next.
  Status run_teacher(uint32_t seed, double scale) {
    CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<PosttrainModel> teacher,
                              PosttrainModel::load(model_.ctx, model_directory_));
    for (train::Parameter& parameter : teacher->parameters.parameters()) {
      for (size_t i = 0; i < parameter.master.size(); ++i) {
        const double noise =
            static_cast<double>(posttrain_hash(static_cast<uint32_t>(i) ^ seed)) / 0x1p31 - 1;
        parameter.master[i] =
            static_cast<float>(static_cast<double>(parameter.master[i]) * (1 + scale * noise));
      }
    }
    CACHALOT_RETURN_IF_ERROR(teacher->model->refresh(model_.ctx));
    Teacher& made = direct_.emplace_back();
    made.states =
        train::final_states(model_.ctx, teacher->model->transformer(), sequences_->samples());
    made.head = teacher->parameters.find("head.weight")->master;
    return {};
  }

  // Samples whose teachers have weights [sample][teacher].
  std::vector<post::DistilledSample> distilled(const std::vector<Teacher>& teachers,
                                               const std::vector<std::vector<double>>& weights) {
    const std::vector<int64_t>& offsets = sequences_->response_offsets();
    std::vector<post::DistilledSample> out;
    for (int64_t i = 0; i < sequences_->num_sequences(); ++i) {
      post::DistilledSample& sample = out.emplace_back();
      sample.rows = offsets[i + 1] - offsets[i];
      for (int64_t k = 0; k < num_teachers_; ++k) {
        if (weights[i][k] == 0) continue;
        sample.teachers.push_back({static_cast<int32_t>(k), weights[i][k],
                                   states_of(teachers[k], offsets[i], sample.rows)});
      }
    }
    return out;
  }

  tensor::TensorView states_of(const Teacher& teacher, int64_t first, int64_t rows) const {
    const int64_t d = model_.config().hidden_size;
    return {tensor::DType::f32,
            {rows, d},
            reinterpret_cast<const std::byte*>(teacher.states.data() + first * d)};
  }

  std::unique_ptr<post::TeacherHeads> heads_of(const std::vector<Teacher>& teachers) const {
    return std::make_unique<post::TeacherHeads>(
        [&teachers](int32_t k) -> Result<std::vector<float>> {
          return teachers[static_cast<size_t>(k)].head;
        },
        model_.config().vocab_size, model_.config().hidden_size, model_.ctx.isa);
  }

  // KL to each teacher alone.
  Status verify_each_teacher() {
    const std::vector<double> golden = expected_->numbers("single.kl", num_rows() * num_teachers_);
    CACHALOT_RETURN_IF_ERROR(expected_->status());
    Closeness kl("opd: KL to each teacher", kKl, Closeness::Measure::absolute);
    const auto heads = heads_of(direct_);
    for (int64_t k = 0; k < num_teachers_; ++k) {
      std::vector<double> one(static_cast<size_t>(num_teachers_), 0);
      one[k] = 1;
      const std::vector<post::DistilledSample> samples =
          distilled(direct_, std::vector(static_cast<size_t>(sequences_->num_sequences()), one));
      post::KlLoss loss(samples, *heads);
      model_.gradients(sequences_->samples(), loss);
      CACHALOT_RETURN_IF_ERROR(loss.status());
      for (int64_t row = 0; row < num_rows(); ++row)
        kl.add(golden[row * num_teachers_ + k], loss.row_losses()[row]);
    }
    kl.report(report_);
    return {};
  }

  Status verify(const GoldenJson& setting, const GoldenJson& digests) {
    const std::string name = setting["name"].text();
    const std::string estimator = setting["estimator"].text();
    const std::string type = setting["teacher_logits"].text();
    std::vector<std::vector<double>> weights;
    for (const GoldenJson& sample : setting["weights"].elements()) {
      weights.push_back(sample.numbers());
      if (std::ssize(weights.back()) != num_teachers_)
        return invalid_argument(
            fmt::format("{}: weights of {}: expected {} of each sample, found {}", directory_, name,
                        num_teachers_, weights.back().size()));
    }
    CACHALOT_RETURN_IF_ERROR(setting.status());
    if (std::ssize(weights) != sequences_->num_sequences())
      return invalid_argument(fmt::format("{}: weights of {}: expected {} samples, found {}",
                                          directory_, name, sequences_->num_sequences(),
                                          weights.size()));
    const std::vector<Teacher>* teachers = type == "direct"     ? &direct_
                                           : type == "float32"  ? &stored_
                                           : type == "bfloat16" ? &rounded_
                                                                : nullptr;
    if (teachers == nullptr || (estimator != "full" && estimator != "sampled"))
      return unsupported(fmt::format("{}: {}: no such estimator or type of logits: {}, {}",
                                     directory_, name, estimator, type));
    double total = 0;  // of the weights: each multiplies an error of at most one KL's
    for (const std::vector<double>& sample : weights)
      for (const double weight : sample) total += weight;
    const std::vector<post::DistilledSample> samples = distilled(*teachers, weights);
    Closeness of_loss("opd " + name + ": loss", (estimator == "full" ? kKl : 2 * kLogprob) * total,
                      Closeness::Measure::absolute);
    std::vector<double> d_logits;
    if (estimator == "full") {
      const auto heads = heads_of(*teachers);
      post::KlLoss loss(samples, *heads);
      Recorded recorded(loss);
      model_.gradients(sequences_->samples(), recorded);
      CACHALOT_RETURN_IF_ERROR(loss.status());
      of_loss.add(setting["loss_sum_over_samples"].number(), loss.loss());
      d_logits = std::move(recorded.d_logits);
    } else {
      CACHALOT_ASSIGN_OR_RETURN(const std::vector<post::SampledKlLoss::Row> rows,
                                sampled_rows(*teachers, weights));
      post::SampledKlLoss loss(rows);
      Recorded recorded(loss);
      model_.gradients(sequences_->samples(), recorded);
      of_loss.add(setting["loss_sum_over_samples"].number(), loss.loss());
      d_logits = std::move(recorded.d_logits);
      double largest = 0;
      for (const post::SampledKlLoss::Row& row : rows) largest = std::max(largest, row.weight);
      if (expected_->has(name + ".advantage")) {
        Closeness advantage("opd " + name + ": advantages", 2 * kLogprob * largest,
                            Closeness::Measure::absolute);
        const std::vector<double> golden = expected_->numbers(name + ".advantage", num_rows());
        for (size_t row = 0; row < golden.size(); ++row)
          advantage.add(golden[row], -loss.row_losses()[row]);
        advantage.report(report_);
      }
    }
    CACHALOT_RETURN_IF_ERROR(setting.status());
    of_loss.report(report_);
    if (expected_->has(name + ".dlogits")) {
      const std::vector<double> golden =
          expected_->numbers(name + ".dlogits", num_rows() * model_.config().vocab_size);
      double largest = 0;
      for (const double value : golden) largest = std::max(largest, std::abs(value));
      Closeness gradient("opd " + name + ": gradient of the logits", kDlogits * largest,
                         Closeness::Measure::absolute);
      gradient.add(golden, d_logits);
      gradient.report(report_);
    }
    CACHALOT_RETURN_IF_ERROR(expected_->status());
    std::optional<GoldenTensors> whole;
    if (fs::exists(path("grads-" + name))) {
      CACHALOT_ASSIGN_OR_RETURN(whole, GoldenTensors::open(path("grads-" + name)));
    }
    return verify_gradients("opd " + name, model_.parameters, digests[name],
                            whole ? &*whole : nullptr, kGradients, report_);
  }

  // sum_k w_k log q_k of each response token.
  Result<std::vector<post::SampledKlLoss::Row>> sampled_rows(
      const std::vector<Teacher>& teachers, const std::vector<std::vector<double>>& weights) {
    const formats::ModelConfig& config = model_.config();
    const std::vector<int64_t>& offsets = sequences_->response_offsets();
    std::vector<post::SampledKlLoss::Row> rows(static_cast<size_t>(num_rows()));
    std::vector<float> logits(rows.size() * static_cast<size_t>(config.vocab_size));
    std::vector<double> logprobs(rows.size());
    for (int64_t k = 0; k < num_teachers_; ++k) {
      const Teacher& teacher = teachers[k];
      const tensor::QuantTensor head{
          .weight = {tensor::DType::f32,
                     {config.vocab_size, config.hidden_size},
                     reinterpret_cast<const std::byte*>(teacher.head.data())},
          .scale = {},
          .rows = config.vocab_size,
          .columns = config.hidden_size};
      CACHALOT_ASSIGN_OR_RETURN(const ops::PackedWeight packed,
                                ops::PackedWeight::pack(model_.ctx, head));
      ops::matmul(model_.ctx, {.x = teacher.states.data(),
                               .m = num_rows(),
                               .x_stride = config.hidden_size,
                               .w = &packed,
                               .y = logits.data(),
                               .y_stride = config.vocab_size,
                               .math = ops::MatmulMath::f32});
      ops::label_logprob(model_.ctx, {.logits = logits.data(),
                                      .logits_stride = config.vocab_size,
                                      .labels = sequences_->responses().data(),
                                      .rows = num_rows(),
                                      .vocab_size = config.vocab_size,
                                      .logprobs = logprobs.data()});
      for (int64_t i = 0; i < sequences_->num_sequences(); ++i) {
        for (int64_t row = offsets[i]; row < offsets[i + 1]; ++row)
          rows[row].teacher_logprob += weights[i][k] * logprobs[row];
      }
    }
    for (int64_t i = 0; i < sequences_->num_sequences(); ++i) {
      double weight = 0;
      for (const double of_teacher : weights[i]) weight += of_teacher;
      for (int64_t row = offsets[i]; row < offsets[i + 1]; ++row) {
        rows[row].weight = weight;
        rows[row].scale = 1 / static_cast<double>(offsets[i + 1] - offsets[i]);
      }
    }
    return rows;
  }

  const std::string directory_, model_directory_;
  PosttrainModel& model_;
  GoldenReport& report_;
  std::optional<PosttrainSequences> sequences_;
  std::optional<GoldenTensors> expected_;
  int64_t num_teachers_ = 0;
  std::vector<Teacher> direct_, stored_, rounded_;
};

}  // namespace

Status verify_opd(const std::string& directory, const std::string& model_directory,
                  PosttrainModel& model, GoldenReport& report) {
  return OpdVerifier(directory, model_directory, model, report).run();
}

}  // namespace cachalot::verify
