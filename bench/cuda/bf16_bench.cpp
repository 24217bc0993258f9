// The products with bf16 weights of a layer, and the head's; Flash and Pro shapes.
#include <algorithm>
#include <cmath>
#include <random>

#include "base/check.h"
#include "cuda/harness.h"
#include "numeric/formats.h"
#include "ops/matmul/bf16_product_cuda.h"
#include "ops/matmul/streamed_weight.h"

namespace cachalot::bench {

void bench_bf16(Harness& h) {
  std::mt19937 rng(19);
  struct Case {
    const char* name;
    int64_t columns;
    std::vector<int64_t> rows;
  };
  for (const Case& c : {Case{"Flash gate", 4096, {256}},
                        Case{"Flash over x of a CSA layer", 4096, {1024, 1024, 256, 256, 64}},
                        Case{"Flash over x of an HCA layer", 4096, {512, 512}},
                        Case{"Flash head", 4096, {129280}}, Case{"Pro gate", 7168, {384}},
                        Case{"Pro over x of a CSA layer", 7168, {1024, 1024, 256, 256, 64}},
                        Case{"Pro head", 7168, {129280}}}) {
    const int64_t columns = c.columns;
    int64_t rows = 0, set_bytes = 0;
    for (const int64_t part : c.rows) {
      rows += part;
      set_bytes += (part + 15) / 16 * 16 * columns * 2;
    }
    std::vector<std::byte> bytes(static_cast<size_t>(set_bytes));
    std::vector<uint16_t> values(bytes.size() / 2);
    for (uint16_t& value : values) {
      const float x = static_cast<float>(static_cast<int>(rng() % 4001) - 2000) / 64000;
      value = numeric::bf16_from_float(x);
    }
    std::memcpy(bytes.data(), values.data(), bytes.size());
    const int sets = static_cast<int>(std::max<int64_t>(2, (int64_t{400} << 20) / set_bytes));
    const cuda::DeviceBuffer pool = h.repeat(bytes, sets);
    for (const int64_t m : {1, 2, 8, 16, 64, 512, 4096}) {
      if (rows > 10000 && m > 64) continue;
      std::normal_distribution<float> normal;
      std::vector<float> x(static_cast<size_t>(m * columns));
      for (float& value : x) value = numeric::round_to_bf16(normal(rng));
      const cuda::DeviceBuffer x_buffer = h.put(x), y_buffer = h.room(m * rows * 4);
      std::vector<ops::Bf16Part> parts(c.rows.size());
      const auto call = [&](int i) {
        const std::byte* from = pool.data() + i % sets * set_bytes;
        float* y = y_buffer.as<float>();
        for (size_t part = 0; part < parts.size(); ++part) {
          parts[part] = {from, c.rows[part], y, rows, false};
          from += (c.rows[part] + 15) / 16 * 16 * columns * 2;
          y += c.rows[part];
        }
      };
      call(0);
      const ops::Bf16Products products{x_buffer.as<float>(), m, columns, columns, parts};
      const cuda::DeviceBuffer scratch =
          h.room(std::max<int64_t>(16, ops::bf16_scratch_bytes(h.device(), products)));
      const auto run = [&](int i) {
        call(i);
        ops::launch_bf16_products(h.device(), h.stream(), products, scratch.data());
      };
      run(0);
      const std::vector<float> y = h.get<float>(y_buffer);
      double error = 0, norm = 0;
      const ops::StreamedLayout layout{ops::StreamedFormat::bf16, c.rows[0], columns};
      for (int64_t n = 0; n < c.rows[0]; n += c.rows[0] / 13) {
        double expected = 0;
        for (int64_t k = 0; k < columns; ++k)
          expected += double{x[(m - 1) * columns + k]} *
                      numeric::float_from_bf16(values[layout.bf16_value(n, k) / 2]);
        error += std::pow(y[(m - 1) * rows + n] - expected, 2);
        norm += expected * expected;
      }
      h.report({"bf16 weights", c.name + tokens_of(m), h.time(std::min(sets, 40), run),
                static_cast<double>(set_bytes + m * (columns + rows) * 4),
                2.0 * static_cast<double>(m * rows * columns), Cores::bf16, std::sqrt(error / norm),
                1e-5});
    }
  }
}

}  // namespace cachalot::bench
