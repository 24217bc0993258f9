// The dense fp8 products of a layer, Flash and Pro shapes, few rows.
#include <algorithm>
#include <cstdio>
#include <random>

#include "base/check.h"
#include "cuda/harness.h"
#include "numeric/formats.h"
#include "ops/matmul/dense_product_cuda.h"
#include "ops/matmul/streamed_weight.h"
#include "tests/cuda/quantised_reference.h"

namespace cachalot::bench {
namespace {

struct Product {
  const char* name;
  int64_t columns, rows, groups;
  bool in_layer;  // one of Flash's five
};

const char* form_name(ops::DenseForm form) {
  return form == ops::DenseForm::official       ? "official"
         : form == ops::DenseForm::official_fp8 ? "official-fp8"
                                                : "bf16 x";
}

}  // namespace

void bench_dense(Harness& h) {
  std::mt19937 rng(7);
  const int64_t pool_bytes = int64_t{1200} << 20;
  double layer_us[3] = {};
  double layer_bytes = 0;
  for (const Product& p : {Product{"wq_a 4096->1024", 4096, 1024, 1, true},
                           Product{"wq_b 1024->32768", 1024, 32768, 1, true},
                           Product{"wo_b 8192->4096", 8192, 4096, 1, true},
                           Product{"shared w13 4096->4096", 4096, 4096, 1, true},
                           Product{"shared w2 2048->4096", 2048, 4096, 1, true},
                           Product{"wo_a 8 x 4096->1024", 4096, 8192, 8, false},
                           Product{"Pro wq_b 1536->65536", 1536, 65536, 1, false},
                           Product{"Pro wo_b 16384->7168", 16384, 7168, 1, false}}) {
    testing::Fp8Weight w;
    w.rows = p.rows;
    w.columns = p.columns;
    w.codes.resize(static_cast<size_t>(p.rows * p.columns));
    for (size_t i = 0; i < w.codes.size(); i += 4) {
      const uint32_t bits = rng() & 0xBFBFBFBFu;  // no NaN
      for (size_t j = 0; j < 4; ++j) w.codes[i + j] = static_cast<uint8_t>(bits >> (8 * j));
    }
    w.scales.resize(static_cast<size_t>((p.rows + 127) / 128 * (p.columns / 128)));
    for (uint8_t& scale : w.scales) scale = static_cast<uint8_t>(114 + rng() % 6);
    const auto bytes = ops::stream_fp8(w.codes.data(), w.scales.data(), w.rows, w.columns);
    const auto size = static_cast<int64_t>((*bytes).size());
    const int copies = static_cast<int>(std::max<int64_t>(2, pool_bytes / size));
    const cuda::DeviceBuffer pool = h.repeat(*bytes, copies);

    constexpr int64_t kMaxM = 4096;
    const int64_t width = p.groups * p.columns;
    std::normal_distribution<float> normal;
    std::vector<uint16_t> x(static_cast<size_t>(kMaxM * width));
    for (uint16_t& value : x) value = numeric::bf16_from_float(normal(rng));
    std::vector<float> x_row(static_cast<size_t>(width));
    for (int64_t k = 0; k < width; ++k) x_row[k] = numeric::float_from_bf16(x[k]);
    const cuda::DeviceBuffer x_buffer = h.put(x);

    for (const ops::DenseForm form :
         {ops::DenseForm::official_fp8, ops::DenseForm::official, ops::DenseForm::unquantised}) {
      if ((form == ops::DenseForm::unquantised) != (p.groups > 1)) continue;
      std::vector<double> values(x_row.begin(), x_row.end());
      if (form != ops::DenseForm::unquantised) values = testing::quantised(x_row);
      for (const int64_t m : {1, 4, 8, 16, 64, 1024, 4096}) {
        if (!p.in_layer && m > 1 && m != 8) continue;
        if (m > 16 && form != ops::DenseForm::official_fp8) continue;
        const auto plan = ops::make_dense_plan(h.device(), {form, m, p.rows, p.columns, p.groups});
        CACHALOT_CHECK_MSG(plan.has_value(), plan.error().message());
        const cuda::DeviceBuffer scratch = h.room(std::max<int64_t>(16, plan->scratch_bytes));
        const cuda::DeviceBuffer y_buffer = h.room(m * p.rows * 2);
        const auto call = [&](int i) {
          ops::launch_dense(*plan, h.stream(), x_buffer.as<uint16_t>(), width,
                            pool.data() + i % copies * size, y_buffer.as<uint16_t>(), p.rows,
                            scratch.data());
        };
        call(0);
        const std::vector<uint16_t> y = h.get<uint16_t>(y_buffer);
        double error = 0, norm = 0;
        for (int64_t n = 0; n < p.rows; n += 61) {
          const int64_t group = n / (p.rows / p.groups);
          const double expected = testing::dot(values.data() + group * p.columns, w, n).value;
          error += std::pow(numeric::float_from_bf16(y[n]) - expected, 2);
          norm += expected * expected;
        }
        const double us = h.time(std::min(copies, 40), call);
        h.report(std::string("dense ") + form_name(form),
                 std::string(p.name) + " m " + std::to_string(m), us, static_cast<double>(size),
                 std::sqrt(error / norm), 4e-3);
        if (p.in_layer && m == 1) {
          layer_us[static_cast<int>(form)] += us;
          if (form == ops::DenseForm::official) layer_bytes += static_cast<double>(size);
        }
      }
    }
  }
  for (const ops::DenseForm form : {ops::DenseForm::official_fp8, ops::DenseForm::official}) {
    const double us = layer_us[static_cast<int>(form)];
    std::printf("%-34s %-26s %9.2f %9.2f %7.0f %5.0f%%  (public 54, bar 35)\n",
                (std::string("dense ") + form_name(form)).c_str(), "the five, m 1", us,
                layer_bytes / 1e6, layer_bytes / us / 1e3,
                layer_bytes / us / 1e1 / h.read_gb_per_s());
  }
}

}  // namespace cachalot::bench
