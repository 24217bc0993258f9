// distill_bench [--vocab-size=N] [--teachers=N] [--answers=N] [--json] [--threads=N] [--isa=NAME]
//               [--seconds=S] [--cpu-clock]
// What the divergence over the whole vocabulary costs beside the estimator of the sampled token: a
// whole step (teachers' forward passes, the student's update) on the same answers of 96 tokens to
// prompts of 32, each answer with one teacher; student and teachers have nano's shape. The two take
// turns. Sampling, which costs both the same, is left out.
// Source  reference/post-training 8.2, 9.2.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string>
#include <vector>

#include "base/rng.h"
#include "bench_run.h"
#include "formats/presets.h"
#include "post/distiller.h"
#include "post/rollout_engine.h"
#include "train/initialize.h"

namespace cachalot {
namespace {

constexpr int64_t kPromptTokens = 32, kAnswerTokens = 96;

struct Case {
  const char* name;
  post::KlEstimate estimate;
  std::vector<double> teachers = {}, updates = {}, steps = {};
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

bool take_number(const std::string& arg, std::string_view name, int64_t* out) {
  if (!arg.starts_with(name)) return false;
  const char* end = arg.data() + arg.size();
  const auto read = std::from_chars(arg.data() + name.size(), end, *out);
  return read.ec == std::errc() && read.ptr == end && *out > 0;
}

class Bench {
 public:
  Bench(const bench::BenchOptions& options, int64_t vocab_size, int64_t num_teachers,
        int64_t num_answers)
      : options_(options), pool_(options.num_threads), ctx_{&pool_, &arena_, options.isa} {
    config_ = formats::nano_config();
    config_.vocab_size = vocab_size;
    precision_ = train::parse_training_precision("fp8", true).value();
    for (int64_t k = 0; k < num_teachers; ++k)
      teachers_.push_back(
          train::initial_parameters(config_, {0.02, 0.01, 2 + static_cast<uint64_t>(k)}));
    train::TrainerConfig trainer;
    trainer.precision = precision_;
    trainer.balance_alpha = trainer.bias_update_rate = trainer.indexer_loss = 0;
    optim::GroupingOptions& grouping = trainer.optimizer.grouping;
    grouping.muon = false;  // as runs of distillation have it
    grouping.hc_mult = config_.hc_mult;
    grouping.head_dim = config_.head_dim;
    grouping.index_head_dim = config_.index_head_dim;
    grouping.num_attention_heads = config_.num_attention_heads;
    grouping.index_n_heads = config_.index_n_heads;
    grouping.o_groups = config_.o_groups;
    student_ =
        train::Trainer::create(ctx_, config_, train::initial_parameters(config_, {0.02, 0.01, 1}),
                               std::nullopt, trainer)
            .value();
    heads_ = std::make_unique<post::TeacherHeads>(
        [this](int32_t k) -> Result<std::vector<float>> {
          return teachers_[static_cast<size_t>(k)].find("head.weight")->master;
        },
        vocab_size, config_.hidden_size, options.isa, ops::MatmulMath::bf16);
    RngStream rng(1, RngPurpose::data, 0);
    for (int64_t i = 0; i < num_answers; ++i) {
      post::Trajectory& answer = answers_.emplace_back();
      answer.id = i;
      answer.teachers = {{static_cast<int32_t>(i % num_teachers), 1}};
      for (int64_t t = 0; t < kPromptTokens + kAnswerTokens; ++t)
        answer.tokens.push_back(
            static_cast<int32_t>(rng.next_u32() % static_cast<uint32_t>(vocab_size)));
      answer.labels.assign(answer.tokens.size(), -1);
      for (size_t t = kPromptTokens; t < answer.labels.size(); ++t)
        answer.labels[t - 1] = answer.tokens[t];
    }
  }

  void step(Case& c) {
    post::Distiller distiller(
        [this](int32_t k) {
          return post::served_model(config_, teachers_[static_cast<size_t>(k)], precision_,
                                    options_.num_threads);
        },
        *heads_, {directory_, post::StateType::bf16, 4096, c.estimate});
    c.teachers.push_back(bench::time_once(options_, [&] {
      if (!distiller.run_teachers(answers_).ok()) std::abort();
    }));
    c.updates.push_back(bench::time_once(options_, [&] {
      if (!distiller.update(*student_, answers_, 1e-6)) std::abort();
    }));
    c.steps.push_back(c.teachers.back() + c.updates.back());
    heads_->drop();
    distiller.forget();
  }

 private:
  const bench::BenchOptions& options_;
  ThreadPool pool_;
  device::Arena arena_;
  device::ExecContext ctx_;
  formats::ModelConfig config_;
  train::TrainingPrecision precision_;
  std::vector<train::ParameterStore> teachers_;
  std::unique_ptr<train::Trainer> student_;
  std::unique_ptr<post::TeacherHeads> heads_;
  std::vector<post::Trajectory> answers_;
  std::string directory_ =
      (std::filesystem::temp_directory_path() / fmt::format("distill_bench-{}", getpid())).string();
};

int run(int argc, char** argv) {
  bench::BenchOptions options;
  int64_t vocab_size = 4096, num_teachers = 2, num_answers = 16;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (bench::take_option(arg, options) || take_number(arg, "--vocab-size=", &vocab_size) ||
        take_number(arg, "--teachers=", &num_teachers) ||
        take_number(arg, "--answers=", &num_answers))
      continue;
    fmt::print(stderr,
               "distill_bench [--vocab-size=N] [--teachers=N] [--answers=N] [--json] [--threads=N] "
               "[--isa=NAME] "
               "[--seconds=S] [--cpu-clock]\n");
    return 1;
  }
  Bench timed(options, vocab_size, num_teachers, num_answers);
  Case cases[] = {{"sampled", post::KlEstimate::sampled}, {"full", post::KlEstimate::full}};
  for (Case& c : cases) {  // warms up
    Case first = c;
    timed.step(first);
  }
  for (double spent = 0; spent < options.seconds || cases[0].steps.size() < 3;) {
    for (Case& c : cases) {
      timed.step(c);
      spent += c.steps.back();
    }
  }
  for (const Case& c : cases) {
    const double ratio = median(c.steps) / median(cases[0].steps);
    if (options.json) {
      fmt::print(
          "{{\"estimate\":\"{}\",\"vocab_size\":{},\"teachers\":{},\"threads\":{},\"steps\":{},"
          "\"teachers_s\":{:.6f},\"update_s\":{:.6f},\"step_s\":{:.6f},\"ratio\":{:.4f}}}\n",
          c.name, vocab_size, num_teachers, options.num_threads, c.steps.size(), median(c.teachers),
          median(c.updates), median(c.steps), ratio);
      continue;
    }
    fmt::print(
        "{:<8} teachers {:>8.1f} ms, update {:>8.1f} ms, step {:>8.1f} ms ({:.3f}), {} steps\n",
        c.name, median(c.teachers) * 1e3, median(c.updates) * 1e3, median(c.steps) * 1e3, ratio,
        c.steps.size());
  }
  return 0;
}

}  // namespace
}  // namespace cachalot

int main(int argc, char** argv) { return cachalot::run(argc, argv); }
