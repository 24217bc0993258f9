// The tape's recompute on graphs made by hand: what runs again, what memory that frees, at which
// addresses. Every value is one page of floats; sum nodes add their inputs and a constant, squares
// have a gradient op that reads its input.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "autograd/tape.h"
#include "base/rng.h"

namespace cachalot::autograd {
namespace {

constexpr int64_t kCount = 1024;
constexpr int64_t kPage = 4096;

class Graph {
 public:
  Graph() : tape_(memory_, exec_) {}
  Tape& tape() { return tape_; }
  device::PagedArena& memory() { return memory_; }

  // No op makes it.
  float* leaf(float seed) {
    float* x = tape_.allocate(kCount);
    for (int64_t i = 0; i < kCount; ++i) x[i] = seed + 0.01f * static_cast<float>(i % 7);
    return x;
  }
  // out = sum of the inputs' squares / 4: its gradient op reads them.
  float* square(const std::vector<const float*>& in, bool can_replay = true) {
    float* out = tape_.allocate(kCount);
    square_into(in, out, can_replay);
    return out;
  }
  void square_into(const std::vector<const float*>& in, float* out, bool can_replay = true) {
    const int64_t op = static_cast<int64_t>(runs_.size());
    runs_.push_back(0);
    const auto run = [=, this] {
      ++runs_[op];
      for (int64_t i = 0; i < kCount; ++i) {
        out[i] = 0;
        for (const float* x : in) out[i] += 0.25f * x[i] * x[i];
      }
    };
    run();
    Op node{.name = "square", .reads = in, .writes = {out}};
    if (can_replay) node.replay = run;
    node.backward = [=, this] {
      const float* d_out = tape_.existing_grad(out);
      if (d_out == nullptr) return;
      for (const float* x : in) {
        float* d_x = tape_.grad(x);
        for (int64_t i = 0; i < kCount; ++i) d_x[i] += d_out[i] * 0.5f * x[i];
      }
    };
    node.needs = in;
    tape_.record(std::move(node));
  }
  // x *= 0.5 in place; its gradient op reads nothing.
  void halve(float* x, bool can_replay = true) {
    const int64_t op = static_cast<int64_t>(runs_.size());
    runs_.push_back(0);
    const auto run = [=, this] {
      ++runs_[op];
      for (int64_t i = 0; i < kCount; ++i) x[i] *= 0.5f;
    };
    run();
    Op node{.name = "halve", .reads = {x}, .writes = {x}};
    if (can_replay) node.replay = run;
    node.backward = [=, this] {
      float* d_x = tape_.existing_grad(x);
      for (int64_t i = 0; d_x != nullptr && i < kCount; ++i) d_x[i] *= 0.5f;
    };
    tape_.record(std::move(node));
  }
  float* square_without_gradient(const float* x) {
    float* out = tape_.allocate(kCount);
    const auto run = [=] {
      for (int64_t i = 0; i < kCount; ++i) out[i] = x[i] * x[i];
    };
    run();
    tape_.record({.name = "square", .reads = {x}, .writes = {out}, .replay = run});
    return out;
  }

  std::vector<int> runs_;  // of each op, the forward one included

 private:
  ThreadPool pool_{1};
  device::Arena arena_;
  device::ExecContext exec_{&pool_, &arena_, device::Isa::reference};
  device::PagedArena memory_;
  Tape tape_;
};

// A parameter whose gradient outlives the tape's arrays.
struct Parameter {
  Parameter() : values(kCount, 0.75f), grad(kCount, 0) {}
  std::vector<float> values, grad;
};

void begin(Graph& g, const float* out) { std::fill_n(g.tape().grad(out), kCount, 1.0f); }

TEST(Recompute, ChainRunsFromTheNearestArrayThatIsThere) {
  Graph g;
  const float* leaf = g.leaf(1);
  float* a = g.square({leaf});
  float* b = g.square({a});
  float* c = g.square({b});
  float* d = g.square({c});
  const int64_t before = g.memory().live_bytes();
  EXPECT_TRUE(g.tape().recompute(b));
  EXPECT_TRUE(g.tape().recompute(c));
  EXPECT_EQ(before - g.memory().live_bytes(), 2 * kPage);
  begin(g, d);
  g.tape().backward();
  // d's gradient op wants c, which takes b; a is there. b is not made a second time for c's
  // gradient op.
  EXPECT_EQ(g.runs_, (std::vector<int>{1, 2, 2, 1}));
  EXPECT_EQ(g.tape().memory().num_replayed, 2);
  EXPECT_EQ(g.tape().memory().released_bytes, 2 * kPage);
  EXPECT_EQ(g.tape().memory().rebuilt_bytes, 2 * kPage);
}

TEST(Recompute, DiamondRunsItsTopOnce) {
  Graph g;
  float* top = g.square({g.leaf(1)});
  float* left = g.square({top});
  float* right = g.square({top});
  float* end = g.square({left, right});
  for (const float* x : {top, left, right}) EXPECT_TRUE(g.tape().recompute(x));
  begin(g, end);
  g.tape().backward();
  EXPECT_EQ(g.runs_, (std::vector<int>{2, 2, 2, 1}));
}

TEST(Recompute, SharedPrefixRunsOnceForBothThatNeedIt) {
  Graph g;
  float* prefix = g.square({g.square({g.leaf(1)})});
  float* a = g.square({prefix});
  float* b = g.square({prefix});
  float* end_a = g.square({a});
  float* end_b = g.square({b});
  for (const float* x : {prefix, a, b}) g.tape().recompute(x);
  begin(g, end_a), begin(g, end_b);
  g.tape().backward();
  EXPECT_EQ(g.runs_, (std::vector<int>{1, 2, 2, 2, 1, 1}));
}

TEST(Recompute, ViewsOfOneArrayAreOneArray) {
  Graph g;
  float* whole = g.tape().allocate(2 * kCount);
  const float* leaf = g.leaf(1);
  g.square_into({leaf}, whole);
  g.square_into({leaf}, whole + kCount);  // both halves of one storage
  float* end = g.square({whole, whole + kCount});
  EXPECT_TRUE(g.tape().recompute(whole + 5));
  EXPECT_TRUE(g.tape().recompute(whole + kCount));  // released already: nothing more
  EXPECT_EQ(g.tape().memory().released_bytes, 2 * kPage);
  begin(g, end);
  g.tape().backward();
  EXPECT_EQ(g.runs_, (std::vector<int>{2, 2, 1}));
  EXPECT_EQ(g.tape().memory().rebuilt_bytes, 2 * kPage);
}

TEST(Recompute, OpsInPlaceRunAgainInTheirOrder) {
  Graph g;
  float* a = g.square({g.leaf(3)});
  g.halve(a);
  float* b = g.square({a});
  const std::vector<float> values(a, a + kCount);
  EXPECT_TRUE(g.tape().recompute(a));
  bool same = false;
  float* end = g.square({b});
  g.tape().record(
      {.name = "look",
       .backward = [&] { same = std::memcmp(a, values.data(), sizeof(float) * kCount) == 0; },
       .needs = {a}});
  begin(g, end);
  g.tape().backward();
  EXPECT_TRUE(same);
  EXPECT_EQ(g.runs_, (std::vector<int>{2, 2, 1, 1}));
}

TEST(Recompute, WhatNoGradientOpReadsIsNotMadeAgain) {
  Graph g;
  float* a = g.square({g.leaf(1)});
  float* b = g.square({a});
  float* unused = g.square({b});
  EXPECT_TRUE(g.tape().recompute(unused));
  begin(g, unused);
  g.tape().backward();
  EXPECT_EQ(g.tape().memory().num_replayed, 0);
  EXPECT_EQ(g.tape().memory().rebuilt_bytes, 0);
}

TEST(Recompute, WhatMustNotRunAgainIsKept) {
  Graph g;
  const float* leaf = g.leaf(1);
  std::vector<float> elsewhere(kCount, 1.0f);
  g.tape().add_storage(elsewhere.data(), kCount);
  float* product = g.square({leaf}, false);
  float* finished = g.square({leaf});
  g.halve(finished, false);
  float* after = g.square({product});
  const int64_t before = g.memory().live_bytes();
  EXPECT_FALSE(g.tape().recompute(leaf));
  EXPECT_FALSE(g.tape().recompute(elsewhere.data()));
  EXPECT_FALSE(g.tape().recompute(product));
  EXPECT_FALSE(g.tape().recompute(finished));
  EXPECT_EQ(g.memory().live_bytes(), before);
  EXPECT_TRUE(g.tape().recompute(after));  // its input stays
}

TEST(Recompute, AnArrayReadBeforeAnUpdateIsBroughtBackToThatState) {
  Graph g;
  float* x = g.square({g.leaf(2)});
  float* reader = g.square_without_gradient(x);
  g.halve(x);
  const std::vector<float> x_after(x, x + kCount), reader_values(reader, reader + kCount);
  EXPECT_TRUE(g.tape().recompute(reader));
  bool same = false;
  g.tape().record({.name = "look",
                   .backward =
                       [&] {
                         same = std::memcmp(reader, reader_values.data(), kCount * 4) == 0 &&
                                std::memcmp(x, x_after.data(), kCount * 4) == 0;
                       },
                   .needs = {reader}});
  g.tape().backward();
  EXPECT_TRUE(same);
}

TEST(RecomputeDeathTest, ReadingAReleasedArrayEndsTheProcess) {
  Graph g;
  float* a = g.square({g.leaf(1)});
  g.tape().recompute(a);
  EXPECT_DEATH(
      {
        volatile float x = a[0];
        (void)x;
      },
      "");
}

TEST(RecomputeDeathTest, AnUpdateThatMustNotRunAgainUnderARebuiltArrayIsACheck) {
  EXPECT_DEATH(
      {
        Graph g;
        float* a = g.square({g.leaf(1)});
        float* b = g.square({a});
        float* c = g.square({b});
        g.tape().recompute(b);
        g.halve(a, false);
        begin(g, c);
        g.tape().backward();
      },
      "square");
}

// The array comes back where it was: gradient ops hold its address, and the op that makes it writes
// there.
TEST(Recompute, PointersStayAndPagesGo) {
  Graph g;
  constexpr int64_t kLarge = int64_t{1} << 20;
  float* x = g.tape().allocate(kLarge);
  const auto fill = [&g, x] {
    (void)g;
    for (int64_t i = 0; i < kLarge; ++i) x[i] = static_cast<float>(i % 1000);
  };
  fill();
  const float* written_at = nullptr;
  g.tape().record({.name = "fill", .writes = {x}, .replay = [&] { written_at = x, fill(); }});
  const float* read_at = nullptr;
  int64_t resident_while_read = 0;
  g.tape().record({.name = "read",
                   .reads = {x},
                   .backward =
                       [&] {
                         read_at = x;
                         EXPECT_EQ(x[kLarge - 1], static_cast<float>((kLarge - 1) % 1000));
                         resident_while_read = g.memory().resident_bytes();
                       },
                   .needs = {x}});
  const int64_t full = g.memory().resident_bytes();
  g.tape().recompute(x);
  const int64_t released = g.memory().resident_bytes();
  EXPECT_EQ(full - released, kLarge * 4);
  g.tape().backward();
  EXPECT_EQ(written_at, x);
  EXPECT_EQ(read_at, x);
  EXPECT_EQ(resident_while_read - released, kLarge * 4);
  EXPECT_EQ(g.memory().resident_bytes(), released);  // gone again after its last reader
}

TEST(Recompute, PlannedPeakIsTheMeasuredOne) {
  for (const bool recomputes : {false, true}) {
    Graph g;
    const float* x = g.leaf(1);
    for (int i = 0; i < 12; ++i) {
      const float* next = g.square({x});
      if (recomputes && i % 4 != 0) g.tape().recompute(x);
      x = next;
    }
    begin(g, x);
    g.tape().backward();
    const TapeMemory& memory = g.tape().memory();
    EXPECT_EQ(memory.planned_peak, memory.measured_peak);
    // 13 arrays and two gradients; or, of 13, every fourth, the three of a block between them, two
    // gradients.
    EXPECT_EQ(memory.measured_peak, (recomputes ? 4 + 3 + 2 : 13 + 2) * kPage);
  }
}

// Random graphs, random annotations: the parameter's gradient keeps its bits, and each op runs
// again at most once.
TEST(Recompute, AnySubsetGivesTheSameGradients) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::vector<float> expected;
    for (const bool recomputes : {false, true}) {
      Parameter parameter;
      Graph g;
      g.tape().add_parameter(parameter.values.data(), kCount, parameter.grad.data());
      RngStream shape(seed, RngPurpose::data, 0), choice(seed, RngPurpose::data, 1);
      std::vector<float*> arrays{g.square({parameter.values.data()})};
      const int64_t size = 3 + shape.next_u32() % 20;
      for (int64_t i = 0; i < size; ++i) {
        std::vector<const float*> in{arrays[shape.next_u32() % arrays.size()]};
        if (shape.next_u32() % 2 == 0) in.push_back(arrays.back());
        if (in.size() == 2 && in[0] == in[1]) in.pop_back();
        arrays.push_back(g.square(in, shape.next_u32() % 5 != 0));
        if (shape.next_u32() % 4 == 0) g.halve(arrays.back());
      }
      for (size_t i = 0; recomputes && i + 1 < arrays.size(); ++i)
        if (choice.next_u32() % 2 == 0) g.tape().recompute(arrays[i]);
      begin(g, arrays.back());
      g.tape().backward();
      EXPECT_LE(*std::max_element(g.runs_.begin(), g.runs_.end()), 2);
      if (!recomputes) {
        expected = parameter.grad;
      } else {
        ASSERT_EQ(0, std::memcmp(expected.data(), parameter.grad.data(), kCount * sizeof(float)))
            << seed;
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::autograd
