// mHC's recompute (reference/training 10): the streams at the start of every block of sublayers and
// every sublayer's output stay; streams, mixed inputs and their norms between are made again, in
// place and to the same bits, and memory follows the formula.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>

#include "autograd/hyper_grad.h"
#include "autograd/norm_grad.h"
#include "autograd/tape.h"
#include "base/rng.h"
#include "base/thread_pool.h"

namespace cachalot::autograd {
namespace {

constexpr int64_t kRows = 8, kStreams = 4, kWidth = 128;  // C of all rows is one page
constexpr int64_t kC = kRows * kWidth, kPage = 4096;
static_assert(kC * sizeof(float) == kPage);

struct Result {
  std::vector<float> d_start;
  TapeMemory memory;
  int num_compared = 0;
};

// A model of mHC around sublayers F(x) = x * x that must not run again. block 0: nothing is
// annotated.
Result run(int64_t num_sublayers, int64_t block) {
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext exec{&pool, &arena, device::machine_isa()};
  device::PagedArena memory;
  Result result;
  std::vector<float> start(static_cast<size_t>(kStreams * kC));
  result.d_start.assign(start.size(), 0);
  RngStream rng(1, RngPurpose::data, 0);
  for (float& x : start) x = static_cast<float>(rng.next_normal());
  // The maps are parameters here, so that the peak holds the terms of the formula alone.
  std::vector<float> pre(kRows * kStreams, 0.3f), post(kRows * kStreams, 0.4f),
      comb(kRows * kStreams * kStreams, 0.25f);
  for (float& x : comb) x += 0.01f * static_cast<float>(rng.next_normal());
  Tape tape(memory, exec);
  const Context ctx(exec, &tape);
  tape.add_parameter(start.data(), kStreams * kC, result.d_start.data());
  std::vector<std::vector<float>> map_grads;
  for (const std::vector<float>* map : {&pre, &post, &comb}) {
    const auto count = static_cast<int64_t>(map->size());
    tape.add_parameter(map->data(), count, map_grads.emplace_back(map->size()).data());
  }
  float* streams = ctx.floats(kStreams * kC);
  {
    const auto copy = [&start, streams] {
      std::memcpy(streams, start.data(), start.size() * sizeof(float));
    };
    copy();
    tape.record({.name = "start",
                 .reads = {start.data()},
                 .writes = {streams},
                 .replay = copy,
                 .backward = [&, streams] {
                   const float* d = tape.existing_grad(streams);
                   for (int64_t i = 0; i < kStreams * kC; ++i) result.d_start[i] += d[i];
                 }});
  }
  for (int64_t l = 0; l < num_sublayers; ++l) {
    float* u = ctx.floats(kC);
    hyper_pre(ctx, streams, pre.data(), kRows, kStreams, kWidth, false, u);
    float* x = ctx.floats(kC);
    rms_norm(ctx, {u, kWidth, nullptr, x, kWidth, kRows, kWidth, 1e-6f, false});
    float* y = ctx.floats(kC);
    for (int64_t i = 0; i < kC; ++i) y[i] = x[i] * x[i];
    // Sees what its gradient reads as it was.
    const auto kept = [](const float* values, int64_t count) {
      return std::make_shared<std::vector<float>>(values, values + count);
    };
    const auto kept_x = kept(x, kC), kept_u = kept(u, kC),
               kept_streams = kept(streams, kStreams * kC);
    tape.record({.name = "F",
                 .reads = {x},
                 .writes = {y},
                 .backward =
                     [=, &tape, &result] {
                       const auto is_same = [&](const std::vector<float>& a, const float* b) {
                         ++result.num_compared;
                         return std::memcmp(a.data(), b, a.size() * sizeof(float)) == 0;
                       };
                       EXPECT_TRUE(is_same(*kept_x, x)) << l;
                       EXPECT_TRUE(is_same(*kept_u, u)) << l;
                       EXPECT_TRUE(is_same(*kept_streams, streams)) << l;
                       const float* d_y = tape.existing_grad(y);
                       float* d_x = tape.grad(x);
                       for (int64_t i = 0; i < kC; ++i) d_x[i] += 2 * x[i] * d_y[i];
                     },
                 .needs = {x, u, streams}});
    float* merged = ctx.floats(kStreams * kC);
    hyper_post(ctx, streams, y, post.data(), comb.data(), kRows, kStreams, kWidth, false, merged);
    if (block > 0) {
      EXPECT_TRUE(tape.recompute(u));
      EXPECT_TRUE(tape.recompute(x));
      const bool starts_block = l % block == 0;
      EXPECT_TRUE(starts_block || tape.recompute(streams));
    }
    streams = merged;
  }
  std::fill_n(tape.grad(streams), kStreams * kC, 1.0f);
  tape.backward();
  result.memory = tape.memory();
  return result;
}

TEST(HyperRecompute, MadeAgainToTheSameBits) {
  const Result plain = run(13, 0);
  EXPECT_EQ(plain.memory.num_replayed, 0);
  for (const int64_t block : {1, 2, 3, 4, 5, 13}) {
    const Result again = run(13, block);
    EXPECT_EQ(again.num_compared, 3 * 13);
    EXPECT_EQ(0, std::memcmp(plain.d_start.data(), again.d_start.data(), plain.d_start.size() * 4));
    // Every u and x, and every stream that starts no block; no F.
    const int64_t num_blocks = (13 + block - 1) / block;
    EXPECT_EQ(again.memory.num_replayed, 2 * 13 + 13 - num_blocks) << block;
  }
}

// Terms, in units of C of all rows:
//   n ceil(L / L_r)   streams that start blocks
//   n (L_r - 1)       the other streams of the block that backward is in: the formula's (n + 2)
//   L_r, of which this tape needs less. It
//                     makes mixed inputs and norms one sublayer at a time, where the streams'
//                     gradients have already shrunk
//   L                 the sublayers' outputs
//   n                 the streams after the last sublayer
//   gradients         of the streams before and after a sublayer (2n), and of its output (1)
// The formula has the first two; the others do not depend on L_r.
TEST(HyperRecompute, MemoryFollowsTheFormula) {
  constexpr int64_t n = kStreams, kSublayers = 24;
  const int64_t others = kSublayers + n + 2 * n + 1;
  for (const int64_t block : {1, 2, 3, 4, 6, 8, 12, 24}) {
    const TapeMemory memory = run(kSublayers, block).memory;
    const int64_t peak = memory.measured_peak / kPage;
    const int64_t starts = n * ((kSublayers + block - 1) / block);
    EXPECT_EQ(peak, starts + n * (block - 1) + others) << block;
    EXPECT_LE(peak, starts + (n + 2) * block + others) << block;
    EXPECT_EQ(memory.planned_peak, memory.measured_peak) << block;
  }
  // Nothing annotated: streams, mixed input, norm and output of every sublayer.
  EXPECT_EQ(run(kSublayers, 0).memory.measured_peak / kPage, (n + 2) * kSublayers + others);
}

}  // namespace
}  // namespace cachalot::autograd
