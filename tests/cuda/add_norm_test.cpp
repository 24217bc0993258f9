// The kernel of docs/kernels/gpu.md has the bits of its plain version.
#include "tests/cuda/add_norm.h"

#include "tests/cuda/cuda_fixture.h"

namespace cachalot::testing {
namespace {

class AddNorm : public CudaTest {};

// A sum a lane, columns ascending, then lanes pairwise: first those 16 apart.
std::vector<float> plain_add_norm(const std::vector<float>& a, const std::vector<float>& b,
                                  const std::vector<float>& g, int64_t rows, float eps) {
  const auto columns = static_cast<int64_t>(g.size());
  std::vector<float> y(a.size());
  for (int64_t row = 0; row < rows; ++row) {
    const float *x = a.data() + row * columns, *z = b.data() + row * columns;
    float sums[32] = {};
    for (int64_t i = 0; i < columns; ++i) {
      const float v = x[i] + z[i];
      sums[i % 32] = std::fmaf(v, v, sums[i % 32]);
    }
    for (int half = 16; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) sums[lane] = sums[lane] + sums[lane + half];
    }
    const float factor = 1.0f / std::sqrt(sums[0] / static_cast<float>(columns) + eps);
    for (int64_t i = 0; i < columns; ++i)
      y[row * columns + i] = numeric::round_to_bf16(g[i] * ((x[i] + z[i]) * factor));
  }
  return y;
}

TEST_F(AddNorm, HasTheBitsOfItsPlainVersion) {
  Rng rng(3);
  for (const int64_t rows : {1, 3, 4, 5, 133}) {
    const std::vector<float> a = random_floats(rng, rows * 512), b = random_floats(rng, rows * 512),
                             g = random_floats(rng, 512);
    const cuda::DeviceBuffer a_there = put(a), b_there = put(b), g_there = put(g),
                             y_there = room(rows * 512 * 4);
    ASSERT_TRUE(add_norm(stream(), {a_there.as<float>(), b_there.as<float>(), g_there.as<float>(),
                                    y_there.as<float>(), rows, 512, 1e-6f})
                    .ok());
    EXPECT_EQ(get<float>(y_there), plain_add_norm(a, b, g, rows, 1e-6f)) << rows;
  }
}

TEST_F(AddNorm, RefusesRowsThatItIsNotFor) {
  AddNormParams p{};
  p.rows = 1;
  p.columns = 500;
  const Status refused = add_norm(stream(), p);
  EXPECT_EQ(refused.message(), "add_norm: expected rows of 512, found 500");
}

}  // namespace
}  // namespace cachalot::testing
