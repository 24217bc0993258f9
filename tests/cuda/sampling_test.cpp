// Sampling on the GPU: every output of a row has the CPU's bits, whatever its parameters and
// whoever stands beside it.
#include "ops/sampling/sampling_testing.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::ops {
namespace {

using testing::Outcome;
using testing::Request;
using Sampling = ::cachalot::testing::GpuTest;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Rows {
  std::vector<float> logits;  // [rows, n]
  std::vector<SamplingRow> rows;
};

void expect_cpu_bits(device::Gpu& gpu, const Rows& rows, const std::string& what) {
  const auto n = static_cast<int64_t>(rows.logits.size() / rows.rows.size());
  cachalot::testing::Side cpu(nullptr), side(&gpu);
  cpu.ctx.isa = device::machine_isas().back();
  const Outcome expected = testing::outcome_of(cpu.ctx, rows.logits.data(), n, rows.rows);
  const float* const logits = side.array(rows.logits);
  const Outcome found = testing::outcome_of(side.ctx, logits, n, rows.rows);
  for (size_t row = 0; row < rows.rows.size(); ++row) {
    const auto at = static_cast<int64_t>(row);
    testing::expect_same_row(expected, at, found, at, what + ", row " + std::to_string(row));
  }
  testing::expect_drawn_alike(side.ctx, logits, n, rows.rows, expected,
                              [&](const int32_t* ids, int64_t count) {
                                auto* copy = side.room<int32_t>(count);
                                copy_ids(side.ctx, ids, count, copy);
                                return side.read(copy, count);
                              });
}

// Random rows, faulty ones among them.
void expect_cpu_bits(device::Gpu& gpu, int64_t num_rows, const std::vector<int64_t>& words) {
  std::mt19937 random(31);
  for (const int64_t n : words) {
    std::vector<Request> requests;
    Rows rows;
    for (int64_t row = 0; row < num_rows; ++row) {
      const double spread = 0.25 * (1 + static_cast<int>(random() % 20));
      std::vector<float> of_row = testing::random_logits(random, static_cast<size_t>(n), spread);
      if (row % 29 == 3) of_row.back() = std::numeric_limits<float>::quiet_NaN();
      if (row % 29 == 4) of_row.assign(of_row.size(), -kInfinity);
      if (row % 29 == 5) of_row[0] = -kInfinity, of_row.back() = 1;
      if (row % 29 == 6) of_row[of_row.size() / 2] = kInfinity;
      if (row % 29 == 7) std::fill(of_row.begin(), of_row.end(), 0.5f);
      rows.logits.insert(rows.logits.end(), of_row.begin(), of_row.end());
      Request request = testing::random_request(random, static_cast<size_t>(n));
      if (row % 7 == 6) request = Request{}, request.temperature = row % 2;
      request.wants_model_logprob = random() % 2 == 0;
      request.num_top = static_cast<int64_t>(random() % (testing::kTopStride + 1));
      requests.push_back(std::move(request));
    }
    for (Request& request : requests) rows.rows.push_back(request.row());
    expect_cpu_bits(gpu, rows, std::to_string(n) + " words");
  }
}

// More rows than run at a time.
TEST_F(Sampling, HasTheBitsOfTheCpu) {
  expect_cpu_bits(*gpu_, 150, {1, 5, 64, 65, 512, 513, 3000, 20000});
}

TEST_F(Sampling, SmallCase) { expect_cpu_bits(*gpu_, 15, {65, 3000}); }

// A vocabulary of Flash's size: more weights reach top_p than are sorted at a time, and ties are
// cut.
TEST_F(Sampling, OfManyWords) {
  std::mt19937 random(32);
  constexpr int64_t kWords = 129280;
  std::vector<Request> requests(8);
  Rows rows;
  std::normal_distribution<float> normal(0, 1);
  for (size_t row = 0; row < requests.size(); ++row) {
    for (int64_t i = 0; i < kWords; ++i) rows.logits.push_back(row % 2 == 0 ? normal(random) : 0);
    Request& request = requests[row];
    request.seed = row;
    request.num_top = row == 1 ? testing::kTopStride : 0;
    if (row / 2 == 1) request.top_k = 4000;
    if (row / 2 == 2) request.top_p = 0.2;
    if (row / 2 == 3) request.top_p = 0.9, request.min_p = 0.05, request.temperature = 0.3;
  }
  for (Request& request : requests) rows.rows.push_back(request.row());
  expect_cpu_bits(*gpu_, rows, "many words");
}

}  // namespace
}  // namespace cachalot::ops
