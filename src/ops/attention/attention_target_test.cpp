// attention_target: the reference against an evaluation in double, every version, thread count and
// cut of the rows against the reference bit for bit.
#include "ops/attention/attention_target.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/attention/attention_segment_testing.h"

namespace cachalot::ops {
namespace {

// Tokens of a call with what stands behind their last entry.
std::vector<float> targets(const Segment& segment, Isa isa, int num_threads, int64_t stride,
                           int64_t first, int64_t rows) {
  ThreadPool pool(num_threads);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  std::vector<float> target(rows * stride, std::nanf(""));
  attention_target(ctx, segment.forward(first, rows), stride, target.data());
  return target;
}

// Against double, with the error of P as for the gradients: a factor 1 + e for every head, its sum
// over H heads and the one over n entries add (H + n + 2) u.
TEST(AttentionTarget, EqualsTheFormula) {
  for (const Shape& shape : {kSelected, kAllEntries, kFull}) {
    const int64_t positions = 17;
    const Segment segment(shape, positions, 80);
    const int64_t stride = segment.num_entries(positions - 1) + 2;
    const std::vector<float> found = targets(segment, Isa::reference, 1, stride, 0, positions);
    const Evaluation e(segment);
    for (int64_t t = 0; t < positions; ++t) {
      const auto keys = segment.keys(t);
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

TEST(AttentionTarget, VersionsThreadsAndCutsAgree) {
  for (const Shape& shape : {Shape{8, 32, 8, 8, 4, 0}, Shape{17, 40, 8, 5, 2, 6},
                             Shape{3, 21, 2, 0, 1, 0}, Shape{4, 128, 64, 8, 2, 9, KvFormat::fp8}}) {
    const int64_t positions = 45;
    const Segment segment(shape, positions, 81);
    const int64_t stride = segment.num_entries(positions - 1) + 1;
    const std::vector<float> expected = targets(segment, Isa::reference, 1, stride, 0, positions);
    for (Isa isa : device::machine_isas()) {
      for (int threads : {1, 2}) {
        for (int64_t cut : {0, 1, 20}) {
          std::vector<float> found = targets(segment, isa, threads, stride, 0, cut);
          const auto rest = targets(segment, isa, threads, stride, cut, positions - cut);
          found.insert(found.end(), rest.begin(), rest.end());
          for (size_t i = 0; i < found.size(); ++i) {
            ASSERT_EQ(std::bit_cast<uint32_t>(expected[i]), std::bit_cast<uint32_t>(found[i]))
                << device::isa_name(isa) << " element " << i;
          }
        }
      }
    }
  }
}

// Sinks that take everything leave a target of zeros.
TEST(AttentionTarget, NothingReceived) {
  Segment segment({3, 16, 4, 4, 4, 0}, 9, 82);
  segment.sink = {kInf, 200, 300};
  for (Isa isa : device::machine_isas()) {
    for (float x : targets(segment, isa, 1, 3, 0, 9)) ASSERT_EQ(x, 0);
  }
}

}  // namespace
}  // namespace cachalot::ops
