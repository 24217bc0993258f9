#include "post/kl_loss.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "base/check.h"
#include "ops/loss/label_logprob.h"
#include "ops/loss/mixture_kl.h"
#include "ops/matmul/matmul.h"
#include "ops/rows/rows.h"

namespace cachalot::post {
namespace {

std::vector<int32_t> sorted_teachers(const DistilledSample& sample) {
  std::vector<int32_t> teachers;
  for (const TeacherShare& share : sample.teachers) teachers.push_back(share.teacher);
  std::ranges::sort(teachers);
  return teachers;
}

const TeacherShare* share_of(const DistilledSample& sample, int32_t teacher) {
  const auto found = std::ranges::find(sample.teachers, teacher, &TeacherShare::teacher);
  return found == sample.teachers.end() ? nullptr : &*found;
}

}  // namespace

std::vector<int64_t> dispatch_order(std::span<const DistilledSample> samples,
                                    std::span<const int64_t> ids) {
  CACHALOT_CHECK(samples.size() == ids.size());
  std::vector<std::pair<std::vector<int32_t>, int64_t>> keys;
  for (size_t i = 0; i < ids.size(); ++i) keys.emplace_back(sorted_teachers(samples[i]), ids[i]);
  std::vector<int64_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, [&](int64_t a, int64_t b) { return keys[a] < keys[b]; });
  return order;
}

std::vector<int32_t> teachers_in_order(std::span<const DistilledSample> samples) {
  std::vector<int32_t> out;
  for (const DistilledSample& sample : samples) {
    for (const int32_t teacher : sorted_teachers(sample))
      if (out.empty() || out.back() != teacher) out.push_back(teacher);
  }
  return out;
}

KlLoss::KlLoss(std::span<const DistilledSample> samples, TeacherHeads& heads) : heads_(heads) {
  for (const DistilledSample& sample : samples)
    for (int64_t place = 0; place < sample.rows; ++place) rows_.push_back({&sample, place});
  row_losses_.resize(rows_.size());
}

Status KlLoss::mix(autograd::Context ctx, const Lot& lot, float* mixed,
                   std::span<ops::MixtureLog> logs) {
  const std::span<const Row> rows =
      std::span(rows_).subspan(static_cast<size_t>(lot.first), lot.labels.size());
  std::set<int32_t> teachers;
  for (const Row& row : rows)
    for (const TeacherShare& share : row.sample->teachers) teachers.insert(share.teacher);
  const int64_t hidden_size = heads_.hidden_size();
  for (const int32_t teacher : teachers) {
    const device::ArenaScope scope(*ctx.exec.arena);
    std::vector<int32_t> places;
    std::vector<float> weights;
    float* states =
        ctx.exec.arena->allocate<float>(static_cast<int64_t>(rows.size()) * hidden_size);
    for (size_t i = 0; i < rows.size(); ++i) {
      const TeacherShare* share = share_of(*rows[i].sample, teacher);
      if (share == nullptr) continue;
      const std::vector<float> state = tensor::to_floats(share->states.slice(rows[i].place));
      std::ranges::copy(state, states + static_cast<int64_t>(places.size()) * hidden_size);
      places.push_back(static_cast<int32_t>(i));
      weights.push_back(static_cast<float>(share->weight));
    }
    CACHALOT_ASSIGN_OR_RETURN(const TeacherHead* head, heads_.use(teacher));
    const auto num_rows = static_cast<int64_t>(places.size());
    std::vector<ops::ExpTotal> totals(places.size());
    float* logits = ctx.exec.arena->allocate<float>(num_rows * TeacherHead::kStretch);
    int64_t first = 0;
    for (const ops::PackedWeight& stretch : head->stretches) {
      const int64_t count = stretch.rows();
      ops::matmul(ctx.exec, {.x = states,
                             .m = num_rows,
                             .x_stride = hidden_size,
                             .w = &stretch,
                             .y = logits,
                             .y_stride = count,
                             .math = heads_.math()});
      ops::mix_teacher(ctx.exec, {logits, count, num_rows, first, count, places.data(),
                                  weights.data(), mixed, lot.vocab_size, totals.data()});
      first += count;
    }
    for (size_t i = 0; i < places.size(); ++i) logs[places[i]].add(weights[i], totals[i]);
  }
  return {};
}

void KlLoss::add(autograd::Context ctx, const Lot& lot) {
  CACHALOT_CHECK(static_cast<size_t>(lot.first) + lot.labels.size() <= rows_.size());
  CACHALOT_CHECK(lot.vocab_size == heads_.vocab_size());
  const auto num_rows = static_cast<int64_t>(lot.labels.size());
  const device::ArenaScope scope(*ctx.exec.arena);
  float* const d_logits = ctx.tape == nullptr ? nullptr : ctx.tape->grad(lot.logits);
  float* const mixed =
      d_logits != nullptr ? d_logits : ctx.exec.arena->allocate<float>(num_rows * lot.vocab_size);
  ops::fill(ctx.exec, mixed, num_rows * lot.vocab_size, 0);
  std::vector<ops::MixtureLog> logs(lot.labels.size());
  if (status_.ok()) status_ = mix(ctx, lot, mixed, logs);
  if (!status_.ok()) {
    ops::fill(ctx.exec, mixed, num_rows * lot.vocab_size, 0);
    return;
  }
  std::vector<double> scales;
  for (int64_t i = 0; i < num_rows; ++i) {
    const DistilledSample& sample = *rows_[static_cast<size_t>(lot.first + i)].sample;
    scales.push_back(sample.scale / static_cast<double>(sample.rows));
  }
  ops::mixture_kl(ctx.exec, {.logits = lot.logits,
                             .logits_stride = lot.vocab_size,
                             .mixed = mixed,
                             .mixed_stride = lot.vocab_size,
                             .rows = num_rows,
                             .vocab_size = lot.vocab_size,
                             .logs = logs.data(),
                             .scales = scales.data(),
                             .losses = &row_losses_[static_cast<size_t>(lot.first)],
                             .d_logits = d_logits,
                             .d_logits_stride = lot.vocab_size});
  for (int64_t i = 0; i < num_rows; ++i)
    loss_ += scales[i] * row_losses_[static_cast<size_t>(lot.first + i)];
}

void SampledKlLoss::add(autograd::Context ctx, const Lot& lot) {
  CACHALOT_CHECK(static_cast<size_t>(lot.first) + lot.labels.size() <= rows_.size());
  const auto rows = rows_.subspan(static_cast<size_t>(lot.first), lot.labels.size());
  std::vector<double> logprobs(rows.size()), coefficients;
  ops::LabelLogprobParams p{};
  p.logits = lot.logits;
  p.logits_stride = lot.vocab_size;
  p.labels = lot.labels.data();
  p.rows = static_cast<int64_t>(rows.size());
  p.vocab_size = lot.vocab_size;
  p.logprobs = logprobs.data();
  ops::label_logprob(ctx.exec, p);
  for (size_t i = 0; i < rows.size(); ++i) {
    const double advantage = rows[i].teacher_logprob - rows[i].weight * logprobs[i];
    row_losses_.push_back(-advantage);
    coefficients.push_back(-rows[i].scale * advantage);
    loss_ += coefficients.back();
  }
  if (ctx.tape == nullptr) return;
  p.logprobs = nullptr;
  p.coefficients = coefficients.data();
  p.d_logits = ctx.tape->grad(lot.logits);
  p.d_logits_stride = lot.vocab_size;
  ops::label_logprob(ctx.exec, p);
}

}  // namespace cachalot::post
