// The dense fp8 products of a layer, rows of floats as in the forward, Flash and Pro shapes; and
// all products over a layer's input together.
#include <algorithm>
#include <cmath>
#include <random>

#include "base/check.h"
#include "cuda/harness.h"
#include "numeric/formats.h"
#include "ops/matmul/bf16_product_cuda.h"
#include "ops/matmul/dense_product_cuda.h"
#include "ops/matmul/streamed_weight.h"
#include "tests/cuda/quantised_reference.h"

namespace cachalot::bench {
namespace {

using ops::DenseForm;

struct Product {
  const char* name;
  int64_t columns, rows, groups;
};
struct Model {
  const char* name;
  std::vector<Product> quantised;  // the five of a layer
  Product wo_a;                    // of bf16 activations
};

constexpr double kBound = 4e-3;
constexpr int64_t kXRows = 64;  // that differ

testing::Fp8Weight random_weight(std::mt19937& rng, int64_t rows, int64_t columns) {
  testing::Fp8Weight w{{}, {}, rows, columns};
  w.codes.resize(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < w.codes.size(); i += 4) {
    const uint32_t bits = rng() & 0xBFBFBFBFu;  // no NaN
    std::memcpy(w.codes.data() + i, &bits, 4);
  }
  w.scales.resize(static_cast<size_t>((rows + 127) / 128 * (columns / 128)));
  for (uint8_t& scale : w.scales) scale = static_cast<uint8_t>(114 + rng() % 6);
  return w;
}

std::vector<float> random_rows(std::mt19937& rng, int64_t width) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(kXRows * width));
  for (float& value : x) value = numeric::round_to_bf16(normal(rng));
  return x;
}

cuda::DeviceBuffer repeat_rows(Harness& h, const std::vector<float>& x, int64_t copies) {
  std::vector<std::byte> bytes(x.size() * sizeof(float));
  std::memcpy(bytes.data(), x.data(), bytes.size());
  return h.repeat(bytes, copies);
}

// One product at the numbers of rows; of one row its timing.
Timing bench_product(Harness& h, const char* model, const Product& p, DenseForm form,
                     std::initializer_list<int64_t> row_counts) {
  std::mt19937 rng(7);
  const testing::Fp8Weight w = random_weight(rng, p.rows, p.columns);
  const auto bytes = ops::stream_fp8(w.codes.data(), w.scales.data(), w.rows, w.columns);
  const auto size = static_cast<int64_t>((*bytes).size());
  const int copies = static_cast<int>(std::max<int64_t>(2, (int64_t{1200} << 20) / size));
  const cuda::DeviceBuffer pool = h.repeat(*bytes, copies);
  const int64_t width = p.groups * p.columns, most = std::max(row_counts);
  const std::vector<float> x = random_rows(rng, width);
  const cuda::DeviceBuffer x_there = repeat_rows(h, x, (most + kXRows - 1) / kXRows);
  Timing of_one{};
  for (const int64_t m : row_counts) {
    const auto plan =
        ops::make_dense_plan(h.device(), {form, m, p.rows, p.columns, p.groups, true});
    CACHALOT_CHECK_MSG(plan.has_value(), plan.error().message());
    const cuda::DeviceBuffer scratch = h.room(std::max<int64_t>(16, plan->scratch_bytes)),
                             y_there = h.room(m * p.rows * 4);
    const auto call = [&](int i) {
      ops::launch_dense(*plan, h.stream(), x_there.as<float>(), width,
                        pool.data() + i % copies * size, y_there.as<float>(), p.rows,
                        scratch.data());
    };
    call(0);
    const std::vector<float> y = h.get<float>(y_there);
    const float* x_row = x.data() + (m - 1) % kXRows * width;
    std::vector<double> values(x_row, x_row + width);
    if (form != DenseForm::unquantised) values = testing::quantised({x_row, x_row + width});
    double error = 0, norm = 0;
    for (int64_t n = 0; n < p.rows; n += 61) {
      const int64_t group = n / (p.rows / p.groups);
      const double expected = testing::dot(values.data() + group * p.columns, w, n).value;
      error += std::pow(y[(m - 1) * p.rows + n] - expected, 2);
      norm += expected * expected;
    }
    const Timing time = h.time(m > 64 ? 3 : std::min(copies, 40), call);
    if (m == 1) of_one = time;
    const char* kernel = form == DenseForm::official       ? "dense, official"
                         : form == DenseForm::official_fp8 ? "dense, official-fp8"
                                                           : "dense, bf16 activations";
    h.report({kernel, std::string(model) + " " + p.name + tokens_of(m), time,
              static_cast<double>(size + m * (width + p.rows) * 4),
              2.0 * static_cast<double>(m * p.rows * p.columns),
              form == DenseForm::official_fp8 ? Cores::e4m3 : Cores::bf16, std::sqrt(error / norm),
              kBound});
  }
  return of_one;
}

void bench_layer(Harness& h, const Model& model) {
  for (const DenseForm form : {DenseForm::official_fp8, DenseForm::official}) {
    Row sum{form == DenseForm::official ? "dense, official" : "dense, official-fp8",
            std::string(model.name) + ", five products of a layer, 1 token",
            {0, 0},
            0,
            0,
            Cores::bf16,
            0,
            0};
    for (const Product& p : model.quantised) {
      const Timing time =
          form == DenseForm::official
              ? bench_product(h, model.name, p, form, {1, 8, 16})
              : bench_product(h, model.name, p, form, {1, 4, 8, 16, 64, 1024, 4096});
      sum.time.us += time.us;
      sum.time.host_us += time.host_us;
      sum.bytes += static_cast<double>(
          ops::StreamedLayout{ops::StreamedFormat::fp8, p.rows, p.columns}.num_bytes());
      sum.flops += 2.0 * static_cast<double>(p.rows * p.columns);
    }
    h.report(sum);
  }
  bench_product(h, model.name, model.wo_a, DenseForm::unquantised, {1, 8, 64, 4096});
}

// Both compressors' products and weights_proj in one launch, wq_a and wkv in the next, at few rows
// beside it.
void bench_over_x(Harness& h, const char* model, int64_t columns, int64_t q_rank) {
  std::mt19937 rng(8);
  const int64_t quantised[] = {q_rank, 512}, wide[] = {1024, 1024, 256, 256, 64};
  int64_t fp8_bytes = 0, set_bytes = 0, rows = 0;
  std::vector<std::byte> bytes;
  std::vector<testing::Fp8Weight> weights;
  for (const int64_t n : quantised) {
    weights.push_back(random_weight(rng, n, columns));
    const auto streamed =
        ops::stream_fp8(weights.back().codes.data(), weights.back().scales.data(), n, columns);
    bytes.insert(bytes.end(), (*streamed).begin(), (*streamed).end());
    rows += n;
  }
  fp8_bytes = static_cast<int64_t>(bytes.size());
  for (const int64_t n : wide) {
    bytes.resize(bytes.size() + static_cast<size_t>(n * columns * 2));
    rows += n;
  }
  set_bytes = static_cast<int64_t>(bytes.size());
  for (int64_t i = fp8_bytes; i < set_bytes; i += 2) {
    const uint16_t value =
        numeric::bf16_from_float(static_cast<float>(static_cast<int>(rng() % 4001) - 2000) / 64000);
    std::memcpy(bytes.data() + i, &value, 2);
  }
  constexpr int kSets = 16;
  const cuda::DeviceBuffer pool = h.repeat(bytes, kSets);
  const std::vector<float> x = random_rows(rng, columns);
  const cuda::DeviceBuffer x_there = h.put(x), y_there = h.room(kXRows * rows * 4);
  for (const int64_t m : {1, 8, 64}) {
    const auto plan = ops::make_dense_plan(
        h.device(), {DenseForm::official_fp8, m, q_rank + 512, columns, 2, true, true});
    CACHALOT_CHECK_MSG(plan.has_value(), plan.error().message());
    ops::Bf16Part parts[5];
    ops::Bf16Products products{x_there.as<float>(), m, columns, columns, parts};
    const auto place = [&](int i) {
      const std::byte* from = pool.data() + i % kSets * set_bytes + fp8_bytes;
      float* y = y_there.as<float>() + q_rank + 512;
      for (int part = 0; part < 5; ++part) {
        parts[part] = {from, wide[part], y, rows, false};
        from += wide[part] * columns * 2;
        y += wide[part];
      }
    };
    place(0);
    const cuda::DeviceBuffer scratch = h.room(std::max<int64_t>(16, plan->scratch_bytes)),
                             wide_scratch = h.room(std::max<int64_t>(
                                 16, ops::bf16_scratch_bytes(h.device(), products)));
    const auto call = [&](int i) {
      const std::byte* set = pool.data() + i % kSets * set_bytes;
      const int64_t first =
          ops::StreamedLayout{ops::StreamedFormat::fp8, q_rank, columns}.num_bytes();
      const ops::DenseGroup groups[] = {{set, q_rank, y_there.as<float>(), rows},
                                        {set + first, 512, y_there.as<float>() + q_rank, rows}};
      place(i);
      ops::LaunchOrder larger, smaller;
      larger.lets_next_in = smaller.runs_beside =
          plan->overlaps && ops::bf16_scratch_bytes(h.device(), products) == 0;
      ops::launch_bf16_products(h.device(), h.stream(), products, wide_scratch.data(), larger);
      ops::launch_dense(*plan, h.stream(), x_there.as<float>(), columns, groups, scratch.data(),
                        smaller);
    };
    call(0);
    const std::vector<float> y = h.get<float>(y_there);
    const float* x_row = x.data() + (m - 1) * columns;
    const std::vector<double> quantised_x = testing::quantised({x_row, x_row + columns});
    double error = 0, norm = 0;
    const auto add = [&](int64_t n, double expected) {
      error += std::pow(y[(m - 1) * rows + n] - expected, 2);
      norm += expected * expected;
    };
    for (int64_t n = 0; n < 512; n += 61)
      add(q_rank + n, testing::dot(quantised_x.data(), weights[1], n).value);
    const ops::StreamedLayout layout{ops::StreamedFormat::bf16, wide[0], columns};
    double wide_error = 0;
    for (int64_t n = 0; n < wide[0]; n += 97) {
      double expected = 0;
      for (int64_t k = 0; k < columns; ++k) {
        uint16_t bits;
        std::memcpy(&bits, bytes.data() + fp8_bytes + layout.bf16_value(n, k), 2);
        expected += double{x_row[k]} * numeric::float_from_bf16(bits);
      }
      wide_error = std::max(wide_error, std::fabs(y[(m - 1) * rows + q_rank + 512 + n] - expected));
    }
    h.report({"over x, official-fp8", std::string(model) + " all of a CSA layer" + tokens_of(m),
              h.time(kSets, call), static_cast<double>(set_bytes + m * (columns + rows) * 4),
              2.0 * static_cast<double>(m * columns * rows), Cores::bf16,
              std::max(std::sqrt(error / norm), wide_error), kBound});
  }
}

}  // namespace

void bench_dense(Harness& h) {
  bench_layer(h, {"Flash",
                  {{"wq_a 4096 -> 1024", 4096, 1024, 1},
                   {"wq_b 1024 -> 32768", 1024, 32768, 1},
                   {"wo_b 8192 -> 4096", 8192, 4096, 1},
                   {"shared w1 and w3 4096 -> 4096", 4096, 4096, 1},
                   {"shared w2 2048 -> 4096", 2048, 4096, 1}},
                  {"wo_a 8 x 4096 -> 1024", 4096, 8192, 8}});
  bench_layer(h, {"Pro",
                  {{"wq_a 7168 -> 1536", 7168, 1536, 1},
                   {"wq_b 1536 -> 65536", 1536, 65536, 1},
                   {"wo_b 16384 -> 7168", 16384, 7168, 1},
                   {"shared w1 and w3 7168 -> 6144", 7168, 6144, 1},
                   {"shared w2 3072 -> 7168", 3072, 7168, 1}},
                  {"wo_a 16 x 4096 -> 1024", 4096, 16384, 16}});
  bench_over_x(h, "Flash", 4096, 1024);
  bench_over_x(h, "Pro", 7168, 1536);
}

}  // namespace cachalot::bench
