// attention_target: the reference against an evaluation in double, every version and thread count
// against the reference bit for bit.
#include "ops/attention/attention_target.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "ops/attention/attention_sample_testing.h"

namespace cachalot::ops {
namespace {

// All tokens, with what stands behind their last entry.
std::vector<float> targets(const Sample& sample, Isa isa, int num_threads, int64_t stride) {
  ThreadPool pool(num_threads);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  std::vector<float> target(sample.num_positions * stride, std::nanf(""));
  attention_target(ctx, sample.forward(), stride, target.data());
  return target;
}

// Against double, with the error of P as for the gradients: a factor 1 + e for every head, its sum
// over H heads and the one over n entries add (H + n + 2) u.
TEST(AttentionTarget, EqualsTheFormula) {
  for (const Shape& shape : {kSelected, kAllEntries, kFull}) {
    const int64_t positions = 17;
    const Sample sample(shape, positions, 80);
    const int64_t stride = sample.num_entries(positions - 1) + 2;
    const std::vector<float> found = targets(sample, Isa::reference, 1, stride);
    const Evaluation e(sample);
    for (int64_t t = 0; t < positions; ++t) {
      const auto keys = sample.keys(t);
      std::vector<double> expected;
      double factor = 0;
      for (int64_t h = 0; h < shape.heads; ++h) {
        const std::vector<double> p = e.probabilities(t, h);
        std::vector<double> entries;
        for (size_t i = 0; i < keys.size(); ++i) {
          const double* q = e.q.data() + (t * shape.heads + h) * shape.head_dim;
          const double score = Evaluation::magnitude(q, e.key(keys[i]), shape.head_dim) /
                               std::sqrt(static_cast<double>(shape.head_dim));
          factor = std::max(factor, static_cast<double>(shape.head_dim + 2) * score);
          if (!keys[i].first) entries.push_back(p[i]);
        }
        expected.resize(entries.size());
        for (size_t i = 0; i < entries.size(); ++i) expected[i] += entries[i];
      }
      const double sum = std::accumulate(expected.begin(), expected.end(), 0.0);
      const auto n = static_cast<double>(keys.size());
      const double relative =
          2 * (2 * factor + 2 * n + static_cast<double>(shape.heads) + 12) * 0x1p-24;
      for (int64_t i = 0; i < stride; ++i) {
        const double x = i < static_cast<int64_t>(expected.size()) ? expected[i] / sum : 0;
        ASSERT_NEAR(found[t * stride + i], x, relative * x) << "position " << t << " place " << i;
      }
    }
  }
}

TEST(AttentionTarget, VersionsAndThreadsAgree) {
  for (const Shape& shape : {Shape{8, 32, 8, 8, 4, 0}, Shape{17, 40, 8, 5, 2, 6},
                             Shape{3, 21, 2, 0, 1, 0}, Shape{4, 128, 64, 8, 2, 9, KvFormat::fp8}}) {
    const int64_t positions = 45;
    const Sample sample(shape, positions, 81);
    const int64_t stride = sample.num_entries(positions - 1) + 1;
    const std::vector<float> expected = targets(sample, Isa::reference, 1, stride);
    for (Isa isa : device::machine_isas()) {
      for (int threads : {1, 2}) {
        expect_same_bits(expected, targets(sample, isa, threads, stride),
                         std::string(device::isa_name(isa)));
      }
    }
  }
}

// Sequences of one call: each has the target that it has alone.
TEST(AttentionTarget, SequencesOfOneCallDoNotMeet) {
  const Sample sample({3, 40, 8, 5, 4, 0}, 45, 83);
  const std::vector<float> alone = targets(sample, Isa::reference, 1, 12);
  std::vector<float> expected = alone;
  expected.insert(expected.end(), alone.begin(), alone.end());
  for (Isa isa : device::machine_isas()) {
    ThreadPool pool(2);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, isa};
    const Twice twice(sample);
    std::vector<float> found(expected.size());
    attention_target(ctx, twice.forward(), 12, found.data());
    expect_same_bits(expected, found, std::string(device::isa_name(isa)));
  }
}

// Sinks that take everything leave a target of zeros.
TEST(AttentionTarget, NothingReceived) {
  Sample sample({3, 16, 4, 4, 4, 0}, 9, 82);
  sample.sink = {kInf, 200, 300};
  for (Isa isa : device::machine_isas()) {
    for (float x : targets(sample, isa, 1, 3)) ASSERT_EQ(x, 0);
  }
}

}  // namespace
}  // namespace cachalot::ops
