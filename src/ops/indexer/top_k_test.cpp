// top_k_positions and TopKStream against a stable sort.
#include "ops/indexer/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/rng.h"
#include "ops/indexer/index_select.h"

namespace cachalot::ops {
namespace {

using device::Isa;

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

// NaN below everything; -0 and 0 are equal.
bool better(float a, float b) {
  if (std::isnan(a)) return false;
  return std::isnan(b) || a > b;
}

std::vector<int32_t> sorted_top_k(const std::vector<float>& scores, int64_t k) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return better(scores[a], scores[b]); });
  order.resize(std::min<size_t>(order.size(), k));
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<int32_t> streamed(const std::vector<float>& scores, int64_t k) {
  std::vector<float> room(TopKStream::capacity(k));
  std::vector<int32_t> positions(TopKStream::capacity(k));
  TopKStream stream(k, room.data(), positions.data());
  for (size_t base = 0; base < scores.size(); base += 64) {
    uint64_t mask = 0;
    for (size_t i = 0; i < 64 && base + i < scores.size(); ++i) {
      if (stream.all() || scores[base + i] > stream.threshold()) mask |= uint64_t{1} << i;
    }
    stream.offer(scores.data() + base, mask, static_cast<int64_t>(base));
  }
  std::vector<int32_t> out(k);
  out.resize(stream.finish(out.data()));
  return out;
}

void check(const std::vector<float>& scores, int64_t k) {
  const std::vector<int32_t> expected = sorted_top_k(scores, k);
  for (Isa isa : device::machine_isas()) {
    std::vector<int32_t> out(k);
    out.resize(
        top_k_positions(isa, scores.data(), static_cast<int64_t>(scores.size()), k, out.data()));
    ASSERT_EQ(expected, out) << "n " << scores.size() << " k " << k << " " << device::isa_name(isa);
  }
  if (k > 0) {
    ASSERT_EQ(expected, streamed(scores, k)) << "stream, n " << scores.size() << " k " << k;
  }
}

TEST(TopK, SizesAndTies) {
  RngStream rng(1, RngPurpose::data, 0);
  for (int64_t n : {0, 1, 2, 63, 64, 65, 500, 512, 513, 3000, 20000}) {
    for (int64_t k : {0, 1, 2, 31, 64, 512, 1024, 4000}) {
      for (int kind = 0; kind < 4; ++kind) {
        std::vector<float> scores(n);
        for (int64_t i = 0; i < n; ++i) {
          const auto x = static_cast<float>(rng.next_normal());
          if (kind == 0) scores[i] = x;
          if (kind == 1) scores[i] = std::round(x * 2);      // many ties, both zeros
          if (kind == 2) scores[i] = static_cast<float>(i);  // ascending
          if (kind == 3) scores[i] = 0;                      // all equal
        }
        check(scores, k);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(TopK, SpecialValues) {
  check({kNan, 1, kNan, -kInf, kInf, -0.0f, 0.0f, -1}, 3);
  check({-0.0f, 0.0f, -0.0f, 0.0f}, 2);
  check({0.0f, -0.0f, 0x1p-149f, -0x1p-149f}, 2);
  check({-kInf, kNan, -kInf, kNan}, 3);
  check(std::vector<float>(3000, kNan), 10);
  check(std::vector<float>(3000, -kInf), 10);
  std::vector<float> late(3000, kNan);  // numbers that come after a full room of NaN
  for (int i = 2500; i < 2600; ++i) late[i] = static_cast<float>(i % 7);
  check(late, 10);
  check(late, 200);
  std::vector<float> negative(3000);
  for (int i = 0; i < 3000; ++i) negative[i] = -static_cast<float>(i * 37 % 3000) - 0.5f;
  check(negative, 100);
}

}  // namespace
}  // namespace cachalot::ops
