// The plain products and attention on the GPU: the bits of the CPU's reference, over formats and
// odd shapes.
#include <cmath>
#include <random>

#include "numeric/formats.h"
#include "ops/attention/sparse_attention.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/matmul_test_data.h"
#include "ops/matmul/pack_on_gpu.h"
#include "ops/moe/expert_products.h"
#include "ops/on_gpu.h"
#include "ops/quant/row_codec.h"
#include "tests/cuda/cached_rows.h"

namespace cachalot::ops {
namespace {

using tensor::KvFormat;
using testing::Cut;
using testing::kCuts;
using testing::LayerMemory;
using testing::Side;
class PlainProducts : public testing::GpuTest {
 protected:
  void expect_attention(const Cut& cut);
};

// A weight where the side's products read it.
PackedWeight packed(Side& side, const TestWeight& weight) {
  if (side.ctx.gpu == nullptr) return PackedWeight::pack(side.ctx, weight.tensor).value();
  const int64_t num_bytes = PackedWeight::packed_bytes(weight.tensor).value();
  auto* memory = side.room<std::byte>(num_bytes);
  return pack_on_gpu(side.ctx, weight.tensor, memory).value();
}

// With denormals and NaN among them.
std::vector<float> inputs(int64_t count, MatmulMath math, RngStream& rng) {
  std::vector<float> x =
      math == MatmulMath::bf16 ? make_bf16_rows(1, count, rng) : make_f32_rows(1, count, rng);
  for (int64_t i = 5; i < count; i += 97) x[i] = numeric::round_to_bf16(1e-39f);
  return x;
}

std::string name(const char* op, WeightFormat format, std::initializer_list<int64_t> sizes) {
  std::string text = std::string(op) + " " + std::string(weight_format_name(format));
  for (const int64_t size : sizes) text += " " + std::to_string(size);
  return text;
}

TEST_F(PlainProducts, Matmul) {
  RngStream rng(1, RngPurpose::data, 0);
  struct Shape {
    int64_t n, k;
  };
  for (const WeightFormat format :
       {WeightFormat::f32, WeightFormat::bf16, WeightFormat::fp8, WeightFormat::fp4}) {
    for (const Shape& shape : {Shape{1, 32}, Shape{64, 128}, Shape{70, 160}, Shape{200, 514},
                               Shape{33, 37}, Shape{129, 1024}}) {
      const int64_t n = shape.n;
      const int64_t k = format == WeightFormat::fp4 ? (shape.k + 1) / 2 * 2 : shape.k;
      const TestWeight weight = make_weight(format, n, k, rng);
      for (const MatmulMath math : {MatmulMath::f32, MatmulMath::bf16}) {
        if (format == WeightFormat::f32 && math == MatmulMath::bf16) continue;
        for (const int64_t m : {1, 3, 17, 70}) {
          const std::vector<float> x = inputs((m + 2) * (k + 3), math, rng);
          std::vector<int32_t> rows;
          for (int64_t i = 0; i < m; ++i) rows.push_back(static_cast<int32_t>(i * 7 % (m + 2)));
          enum Form { plain, by_rows, rounded, chains };
          for (const Form form : {plain, by_rows, rounded, chains}) {
            if (form == chains && format != WeightFormat::f32) continue;
            compare(name("matmul", format, {n, k, m, math == MatmulMath::bf16, form}),
                    [&](Side& side) {
                      const PackedWeight w = packed(side, weight);
                      auto* y = side.room<float>(m * (n + 1));
                      MatmulParams p{};
                      p.x = side.array(x);
                      p.m = m;
                      p.x_stride = k + 3;
                      if (form == by_rows) p.x_rows = side.array(rows);
                      p.w = &w;
                      p.y = y;
                      p.y_stride = n + 1;
                      p.math = math;
                      p.round_y = form == rounded;
                      p.chain_inputs = form == chains ? 64 : 0;
                      matmul(side.ctx, p);
                      return side.read(y, m * (n + 1));
                    });
          }
        }
      }
    }
  }
}

TEST_F(PlainProducts, Experts) {
  RngStream rng(2, RngPurpose::data, 0);
  constexpr int64_t kExperts = 5, kInputs = 160, kOutputs = 70;
  // The second and the last have no pairs.
  const std::vector<int64_t> first_pair = {0, 3, 3, 40, 41, 41};
  const int64_t pairs = first_pair.back();
  std::vector<int32_t> rows;
  for (int64_t i = 0; i < pairs; ++i) rows.push_back(static_cast<int32_t>(i * 3 % 20));
  for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::fp8, WeightFormat::fp4}) {
    std::vector<TestWeight> weights;
    for (int64_t e = 0; e < 2 * kExperts; ++e)
      weights.push_back(make_weight(format, kOutputs, kInputs, rng));
    const std::vector<float> x = inputs(pairs * kInputs, MatmulMath::bf16, rng);
    for (const MatmulMath math : {MatmulMath::f32, MatmulMath::bf16}) {
      for (const bool by_rows : {false, true}) {
        compare(name("experts", format, {math == MatmulMath::bf16, by_rows}), [&](Side& side) {
          struct Pair {
            PackedWeight parts[2];
          };
          std::vector<Pair> experts(kExperts);
          for (int64_t e = 0; e < kExperts; ++e) {
            experts[e].parts[0] = packed(side, weights[2 * e]);
            experts[e].parts[1] = packed(side, weights[2 * e + 1]);
          }
          auto* y = side.room<float>(2 * pairs * kOutputs);
          ExpertProductsParams p{};
          p.x = side.array(x);
          p.x_stride = kInputs;
          p.x_rows = by_rows ? side.array(rows) : nullptr;
          p.first_pair = side.array(first_pair);
          p.num_pairs = pairs;
          p.num_experts = kExperts;
          p.num_parts = 2;
          for (int i = 0; i < 2; ++i) {
            p.parts[i] = {{&experts[0].parts[i], sizeof(Pair)}, y + i * pairs * kOutputs, kOutputs};
          }
          p.math = math;
          p.round_y = true;
          if (side.ctx.gpu != nullptr) {
            expert_products_cuda(side.ctx, p);
          } else {
            std::vector<MatmulParams> products(2 * kExperts);
            const int64_t count = list_expert_products(p, products.data());
            grouped_matmul(side.ctx, {products.data(), static_cast<size_t>(count)});
          }
          return side.read(y, 2 * pairs * kOutputs);
        });
      }
    }
  }
}

void PlainProducts::expect_attention(const Cut& cut) {
  std::mt19937 rng(3);
  struct Shape {
    int64_t heads, head_dim, rope_dim;
  };
  enum Keys { window, selected, all, entries_only };
  const auto numbers = [&](int64_t count, bool bf16) {
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) {
      value = normal(rng);
      if (bf16) value = numeric::round_to_bf16(value);
    }
    return values;
  };
  for (const Shape& shape : {Shape{3, 64, 16}, Shape{2, 130, 66}}) {
    for (const KvFormat format : {KvFormat::f32, KvFormat::bf16, KvFormat::fp8}) {
      const tensor::RowLayout layout =
          tensor::kv_row_layout(format, shape.head_dim, shape.rope_dim);
      LayerMemory memory(rng, layout, layout, cut.sequences());
      std::vector<std::byte> step(static_cast<size_t>(cut.rows() * layout.row_bytes()));
      const auto fill = [&](std::byte* block, int64_t rows) {
        const std::vector<float> x = numbers(rows * shape.head_dim, true);
        for (int64_t i = 0; i < rows; ++i) {
          encode_kv_row(format, x.data() + i * shape.head_dim, shape.head_dim, shape.rope_dim,
                        {block + i * layout.data_bytes,
                         block + rows * layout.data_bytes + i * layout.scale_bytes});
        }
      };
      for (int64_t s = 0; s < cut.sequences(); ++s) {
        std::byte* own = memory.content.data() + s * (memory.ring_bytes() + memory.blocks_bytes());
        fill(own, LayerMemory::kCapacity);
        for (int64_t i = 0; i < LayerMemory::kNumBlocks; ++i)
          fill(own + memory.ring_bytes() + i * memory.block_bytes(), LayerMemory::kRowsPerBlock);
      }
      fill(step.data(), cut.rows());
      constexpr int64_t kTopk = 13, kRatio = 4;
      std::vector<int32_t> picks, num_picks;
      const std::vector<int64_t> first_row = cut.first_row();
      for (int64_t s = 0; s < cut.sequences(); ++s) {
        for (int64_t i = 0; i < cut.lengths[s]; ++i) {
          const int64_t visible = (cut.first_position[s] + i + 1) / kRatio;
          const auto count = static_cast<int32_t>(std::min(visible, kTopk));
          num_picks.push_back(count);
          for (int64_t j = 0; j < kTopk; ++j)
            picks.push_back(j < count ? static_cast<int32_t>(j * visible / count) : -1);
        }
      }
      for (const bool bf16 : {false, true}) {
        const std::vector<float> q = numbers(cut.rows() * shape.heads * shape.head_dim, bf16);
        const std::vector<float> angles = numbers(cut.rows() * shape.rope_dim, false);
        std::vector<float> sink = numbers(shape.heads, false);
        sink[0] = -INFINITY;
        for (const Keys keys : {window, selected, all, entries_only}) {
          compare("attention " + std::to_string(shape.head_dim) + " format " +
                      std::to_string(static_cast<int>(format)) + " keys " + std::to_string(keys) +
                      (bf16 ? " bf16" : " f32"),
                  [&](Side& side) {
                    auto* out = side.room<float>(static_cast<int64_t>(q.size()));
                    SparseAttentionParams p{};
                    p.q = side.array(q);
                    p.heads = shape.heads;
                    p.head_dim = shape.head_dim;
                    p.rope_dim = shape.rope_dim;
                    p.sequences = side.sequences(first_row, cut.first_position);
                    p.layer_rows = memory.layer_rows(side, memory.put(side));
                    if (keys != entries_only)
                      p.step_rows = side.step_rows(side.array(step), cut.rows(), layout);
                    p.scale = 0.125f;
                    p.sink = side.table(sink);
                    p.window = keys == entries_only ? 0 : 100;
                    p.ratio = keys == window ? 0 : keys == entries_only ? 1 : kRatio;
                    if (keys == selected) {
                      p.selected = side.array(picks);
                      p.num_selected = side.array(num_picks);
                      p.topk = kTopk;
                    }
                    p.format = format;
                    p.bf16_math = bf16;
                    p.out = out;
                    if (keys == all) {
                      const float* const table = side.array(angles);
                      p.rotate_back = {table, table + cut.rows() * shape.rope_dim / 2};
                    }
                    sparse_attention(side.ctx, p);
                    return side.read(out, static_cast<int64_t>(q.size()));
                  });
        }
      }
    }
  }
}

TEST_F(PlainProducts, Attention) {
  for (const Cut& cut : kCuts) expect_attention(cut);
}

TEST_F(PlainProducts, SmallCase) { expect_attention(kCuts[3]); }

}  // namespace
}  // namespace cachalot::ops
