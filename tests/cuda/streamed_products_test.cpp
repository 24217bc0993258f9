// The products of streamed weights behind the fronts: rows of floats give the bits of the kernels
// over rows of bf16, which their own tests hold to the formula, and x quantised before those of x.
#include <deque>

#include "device/cuda/cuda_gpu.h"
#include "numeric/formats.h"
#include "ops/matmul/bf16_rows.h"
#include "ops/matmul/dense_product_cuda.h"
#include "ops/matmul/laid_weights.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/matmul_test_data.h"
#include "ops/matmul/streamed_weight.h"
#include "ops/moe/expert_layer_cuda.h"
#include "ops/moe/router.h"
#include "ops/moe/streamed_experts.h"
#include "ops/moe/swiglu.h"
#include "ops/norm/rms_norm.h"
#include "ops/quant/act_quant.h"
#include "ops/rows/together.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::ops {
namespace {

using testing::Side;
class StreamedProducts : public testing::GpuTest {
 protected:
  void expect_inputs_made(int64_t rows, int64_t columns);
};

const uint8_t* codes_of(const TestWeight& w) {
  return reinterpret_cast<const uint8_t*>(w.tensor.weight.data);
}
const uint8_t* scales_of(const TestWeight& w) {
  return reinterpret_cast<const uint8_t*>(w.tensor.scale.data);
}
std::vector<uint16_t> bf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(numeric::bf16_from_float(value));
  return bits;
}
std::vector<float> floats(const std::vector<uint16_t>& bits) {
  std::vector<float> values;
  for (const uint16_t bit : bits) values.push_back(numeric::float_from_bf16(bit));
  return values;
}

TEST_F(StreamedProducts, Matmul) {
  RngStream rng(1, RngPurpose::data, 0);
  using OnGpu = PackedWeight::OnGpu;
  struct Shape {
    int64_t m, n, k;
  };
  for (const Shape& s : {Shape{1, 40, 384}, Shape{3, 256, 4096}, Shape{17, 200, 1152},
                         Shape{70, 64, 128}, Shape{1, 512, 8192}}) {
    const TestWeight weight = make_weight(WeightFormat::fp8, s.n, s.k, rng);
    const std::vector<float> x = make_bf16_rows(s.m, s.k, rng);
    for (const OnGpu form : {OnGpu::streamed, OnGpu::streamed_bf16}) {
      const bool quantised = form == OnGpu::streamed;
      const std::string what = std::to_string(s.m) + " x " + std::to_string(s.n) + " x " +
                               std::to_string(s.k) + (quantised ? " e4m3" : " bf16");
      Side host(nullptr), side(gpu_.get());
      device::ExecContext& ctx = side.ctx;
      const DensePlan plan =
          make_dense_plan(
              device::cuda::device_of(ctx),
              {quantised ? DenseForm::official_fp8 : DenseForm::unquantised, s.m, s.n, s.k})
              .value();
      auto* expected = side.room<uint16_t>(s.m * s.n);
      launch_dense(plan, device::cuda::stream_of(ctx), side.array(bf16(x)), s.k,
                   side.array(stream_fp8(codes_of(weight), scales_of(weight), s.n, s.k).value()),
                   expected, s.n, side.room<std::byte>(plan.scratch_bytes));

      PackedWeight w = PackedWeight::pack(host.ctx, weight.tensor).value();
      ASSERT_TRUE(w.move_to(*gpu_, form).ok());
      float* const rows = side.array(x);
      const auto run = [&](int64_t first, int64_t m) {
        auto* y = side.room<float>(m * (s.n + 1));
        MatmulParams p{};
        p.x = rows + first * s.k;
        p.m = m;
        p.x_stride = s.k;
        p.w = &w;
        p.y = y;
        p.y_stride = s.n + 1;
        p.math = MatmulMath::bf16;
        p.round_y = true;
        matmul(ctx, p);
        const std::vector<float> padded = side.read(y, m * (s.n + 1));
        std::vector<float> values;
        for (int64_t i = 0; i < m; ++i) {
          const auto row = padded.begin() + i * (s.n + 1);
          values.insert(values.end(), row, row + s.n);
        }
        return values;
      };
      const std::vector<float> found = run(0, s.m);
      testing::expect_same(found, floats(side.read(expected, s.m * s.n)), what);
      const std::vector<float> last = run(s.m - 1, 1);
      testing::expect_same(last, std::vector<float>(found.end() - s.n, found.end()), what);
      if (!quantised) continue;
      simulate_fp8(ctx, {rows, s.m, s.k, s.k, rows, s.k}, 128);
      testing::expect_same(run(0, s.m), found, what + ", quantised before");
    }
  }
}

// Products that go into one launch have the bits that each has alone.
TEST_F(StreamedProducts, GroupedMatmul) {
  RngStream rng(3, RngPurpose::data, 0);
  using OnGpu = PackedWeight::OnGpu;
  constexpr int64_t kColumns = 1024;
  struct Case {
    OnGpu form;
    std::vector<int64_t> rows;
    bool beside;  // their x lie one after the other
  };
  for (const Case& c :
       {Case{OnGpu::streamed, {1024, 512}, false}, Case{OnGpu::streamed, {16, 2048, 40}, false},
        Case{OnGpu::streamed, {40, 64, 64}, false},
        Case{OnGpu::streamed_bf16, {256, 256, 256, 256, 256}, true},
        Case{OnGpu::streamed_bf16, {256, 256, 128}, true},
        // For which there are kernels of more rows of x.
        Case{OnGpu::streamed_bf16, {1056, 1056, 1056, 1056}, true},
        Case{OnGpu::streamed_bf16, {1152, 1152, 1152, 1152}, true}}) {
    std::deque<PackedWeight> weights;
    Side host(nullptr), side(gpu_.get());
    for (const int64_t rows : c.rows) {
      const TestWeight weight = make_weight(WeightFormat::fp8, rows, kColumns, rng);
      weights.push_back(PackedWeight::pack(host.ctx, weight.tensor).value());
      ASSERT_TRUE(weights.back().move_to(*gpu_, c.form).ok());
    }
    const auto count = static_cast<int64_t>(c.rows.size());
    const int64_t width = c.beside ? count * kColumns : kColumns;
    for (const int64_t m : {1, 2, 7, 40, 530}) {
      const float* x = side.array(make_bf16_rows(m, width, rng));
      std::vector<MatmulParams> products;
      for (int64_t i = 0; i < count; ++i) {
        MatmulParams p{};
        p.x = x + (c.beside ? i * kColumns : 0);
        p.m = m;
        p.x_stride = width;
        p.w = &weights[i];
        p.y = side.room<float>(m * (c.rows[i] + i));
        p.y_stride = c.rows[i] + i;
        p.math = MatmulMath::bf16;
        p.round_y = true;
        products.push_back(p);
      }
      grouped_matmul(side.ctx, products);
      for (int64_t i = 0; i < count; ++i) {
        const MatmulParams& p = products[i];
        const std::vector<float> found = side.read(p.y, m * p.y_stride);
        MatmulParams alone = p;
        alone.y = side.room<float>(m * p.y_stride);
        matmul(side.ctx, alone);
        testing::expect_same(found, side.read(alone.y, m * p.y_stride),
                             "product " + std::to_string(i) + " of " + std::to_string(count) +
                                 ", m " + std::to_string(m));
      }
    }
  }
}

// A weight of the GPU's memory.
PackedWeight streamed(Side& host, device::Gpu& gpu, WeightFormat format, int64_t rows,
                      int64_t columns, RngStream& rng) {
  const TestWeight weight = make_weight(format, rows, columns, rng);
  PackedWeight packed = PackedWeight::pack(host.ctx, weight.tensor).value();
  EXPECT_TRUE(packed.move_to(gpu, PackedWeight::OnGpu::streamed).ok());
  return packed;
}

MatmulParams product(const float* x, int64_t m, const PackedWeight& w, float* y, bool round_y) {
  MatmulParams p{};
  p.x = x;
  p.m = m;
  p.x_stride = w.columns();
  p.w = &w;
  p.y = y;
  p.y_stride = w.rows();
  p.math = MatmulMath::bf16;
  p.round_y = round_y;
  return p;
}

// Products of all kinds of weights over one x in bf16 have the bits of those over its floats: those
// over a sublayer's input, of so many rows that fp8 takes either of its kernels, bf16 all three.
TEST_F(StreamedProducts, OverAnInputInBf16) {
  RngStream rng(9, RngPurpose::data, 0);
  constexpr int64_t kColumns = 2048;
  struct Part {
    WeightFormat format;
    int64_t rows;
  };
  constexpr auto kFp8 = WeightFormat::fp8, kBf16 = WeightFormat::bf16;
  for (const auto& parts :
       {std::vector<Part>{{kFp8, 1024}, {kFp8, 512}},
        std::vector<Part>{{kFp8, 1024}, {kFp8, 512}, {kBf16, 1024}, {kBf16, 1024}, {kBf16, 64}},
        std::vector<Part>{{kFp8, 2048}, {kFp8, 2048}, {kBf16, 256}}, std::vector<Part>{{kBf16, 40}},
        std::vector<Part>{{kBf16, 1040}, {kFp8, 2048}, {kBf16, 24}}}) {
    Side host(nullptr), side(gpu_.get());
    std::deque<PackedWeight> weights;
    for (const Part& part : parts)
      weights.push_back(streamed(host, *gpu_, part.format, part.rows, kColumns, rng));
    for (const int64_t m : {600, 1031, 1700}) {
      const std::vector<float> values = make_bf16_rows(m, kColumns, rng);
      const float* const x = side.array(values);
      std::vector<MatmulParams> products;
      for (const PackedWeight& w : weights) {
        products.push_back(
            product(x, m, w, side.room<float>(m * w.rows()), w.format() == kFp8 || w.rows() == 64));
      }
      grouped_matmul(side.ctx, products);
      std::vector<MatmulParams> in_bf16 = products;
      for (MatmulParams& p : in_bf16) {
        p.x = nullptr;
        p.y = side.room<float>(m * p.w->rows());
      }
      ASSERT_TRUE(products_take_bf16_input(side.ctx, in_bf16)) << m;
      grouped_matmul_bf16_input(side.ctx, in_bf16, side.array(bf16(values)));
      for (size_t i = 0; i < products.size(); ++i) {
        const int64_t count = m * products[i].w->rows();
        testing::expect_same(side.read(in_bf16[i].y, count), side.read(products[i].y, count),
                             "product " + std::to_string(i) + " of " +
                                 std::to_string(products.size()) + ", m " + std::to_string(m));
      }
      for (MatmulParams& p : in_bf16) p.m = 2;  // whose kernels read floats
      EXPECT_FALSE(products_take_bf16_input(side.ctx, in_bf16));
    }
  }
}

// And with results in bf16.
TEST_F(StreamedProducts, OverOneInputInBf16ToBf16) {
  RngStream rng(10, RngPurpose::data, 0);
  constexpr int64_t kColumns = 1024, kRows = 2048;
  Side host(nullptr), side(gpu_.get());
  const PackedWeight weights[] = {streamed(host, *gpu_, WeightFormat::fp8, kRows, kColumns, rng),
                                  streamed(host, *gpu_, WeightFormat::fp8, kRows, kColumns, rng)};
  for (const int64_t m : {300, 1031}) {
    const std::vector<float> values = make_bf16_rows(m, kColumns, rng);
    const float* const x = side.array(values);
    std::vector<MatmulParams> products;
    for (const PackedWeight& w : weights) products.push_back(product(x, m, w, nullptr, true));
    const auto results = [&](const Bf16Rows& rows) {
      grouped_matmul_bf16(side.ctx, products, rows);
      return floats(side.read(rows.y, m * 2 * kRows));
    };
    const std::vector<float> expected =
        results({nullptr, side.room<uint16_t>(m * 2 * kRows), false});
    for (MatmulParams& p : products) p.x = nullptr;
    ASSERT_TRUE(products_take_bf16(side.ctx, products, true, true, true));
    testing::expect_same(
        results({side.array(bf16(values)), side.room<uint16_t>(m * 2 * kRows), true}), expected,
        "m " + std::to_string(m));
  }
}

// Weights laid anew before, with others between them or not, change no bit of products of very many
// rows: of one, of several over one x, of several over neighbouring x; with whole tiles and not.
TEST_F(StreamedProducts, LaidWeightsChangeNoBit) {
  RngStream rng(12, RngPurpose::data, 0);
  using OnGpu = PackedWeight::OnGpu;
  struct Case {
    OnGpu form;
    std::vector<int64_t> rows;
    int64_t columns;
    bool beside;
  };
  for (const Case& c :
       {Case{OnGpu::streamed, {2048}, 1024, false},
        Case{OnGpu::streamed, {1040, 1000}, 4096, false}, Case{OnGpu::streamed, {2008}, 384, false},
        Case{OnGpu::streamed_bf16, {528, 528, 528, 528}, 1024, true},
        Case{OnGpu::streamed_bf16, {512, 512, 512, 512}, 4096, true}}) {
    Side host(nullptr), side(gpu_.get());
    std::deque<PackedWeight> weights;
    WeightsToLay to_lay, apart;
    for (const int64_t rows : c.rows) {
      const TestWeight weight = make_weight(WeightFormat::fp8, rows, c.columns, rng);
      weights.push_back(PackedWeight::pack(host.ctx, weight.tensor).value());
      ASSERT_TRUE(weights.back().move_to(*gpu_, c.form).ok());
    }
    const PackedWeight other = streamed(host, *gpu_, WeightFormat::fp8, 200, 256, rng);
    to_lay.add(other);
    for (const PackedWeight& w : weights) {
      to_lay.add(w);
      apart.add(w);
      apart.add(other);
    }
    constexpr int64_t kRows = 1731;
    const auto count = static_cast<int64_t>(weights.size());
    const int64_t width = c.beside ? count * c.columns : c.columns;
    const float* const x = side.array(make_bf16_rows(kRows, width, rng));
    const auto results = [&](const LaidWeights& laid) {
      std::vector<MatmulParams> products;
      for (int64_t i = 0; i < count; ++i) {
        const PackedWeight& w = weights[static_cast<size_t>(i)];
        MatmulParams p = product(x + (c.beside ? i * c.columns : 0), kRows, w,
                                 side.room<float>(kRows * w.rows()), true);
        p.x_stride = width;
        p.laid = laid.find(w);
        products.push_back(p);
      }
      EXPECT_TRUE(products_lay_weights(side.ctx, products, !c.beside));
      grouped_matmul(side.ctx, products);
      std::vector<float> values;
      for (const MatmulParams& p : products) {
        const std::vector<float> y = side.read(p.y, kRows * p.w->rows());
        values.insert(values.end(), y.begin(), y.end());
      }
      return values;
    };
    const std::vector<float> expected = results({});
    for (const WeightsToLay* order : {&to_lay, &apart}) {
      const LaidWeights laid = lay_weights(
          side.ctx, *order, side.room<std::byte>(laid_bytes(*order)), /*runs_beside=*/false);
      testing::expect_same(results(laid), expected, std::to_string(count) + " weights");
    }
  }
}

TEST_F(StreamedProducts, ALaidWeightIsOfItsProduct) {
  RngStream rng(13, RngPurpose::data, 0);
  constexpr int64_t kRows = 2048, kColumns = 1024;
  Side host(nullptr), side(gpu_.get());
  const PackedWeight w = streamed(host, *gpu_, WeightFormat::fp8, kRows, kColumns, rng);
  const PackedWeight other = streamed(host, *gpu_, WeightFormat::fp8, kRows, 256, rng);
  MatmulParams p = product(side.room<float>(1), kRows, w, side.room<float>(1), true);
  EXPECT_TRUE(products_lay_weights(side.ctx, {&p, 1}));
  const LaidWeight wrong{&other, side.room<std::byte>(16), side.room<float>(4)};
  p.laid = &wrong;
  EXPECT_DEATH(matmul(side.ctx, p), "laid");
  p.m = 40;  // for which a weight is read as it lies
  EXPECT_FALSE(products_lay_weights(side.ctx, {&p, 1}));
}

// Products of a call that take several launches run beside each other, and the ops after them
// beside those: all of them after what makes x, which takes its time, and before what reads the
// results that come last, when all else has long ended.
TEST_F(StreamedProducts, LaunchesBesideEachOther) {
  RngStream rng(4, RngPurpose::data, 0);
  constexpr int64_t kColumns = 1024, kRawColumns = 8192, kLast = 256;
  Side host(nullptr), side(gpu_.get());
  device::ExecContext& ctx = side.ctx;
  const PackedWeight maker = streamed(host, *gpu_, WeightFormat::fp8, kColumns, kRawColumns, rng),
                     last = streamed(host, *gpu_, WeightFormat::fp8, kLast, kColumns, rng);
  struct Part {
    WeightFormat format;
    int64_t rows;
    int times;  // of one weight, each with a result of its own
  };
  constexpr auto kFp8 = WeightFormat::fp8, kBf16 = WeightFormat::bf16;
  for (const auto& parts : std::initializer_list<std::vector<Part>>{
           {{kFp8, 12288, 14}, {kBf16, 256, 1}},
           {{kFp8, 256, 1}, {kBf16, 12288, 7}},
           {{kFp8, 1024, 1}, {kBf16, 1024, 1}, {kFp8, 1024, 1}}}) {
    std::deque<PackedWeight> weights;
    for (const Part& part : parts)
      weights.push_back(streamed(host, *gpu_, part.format, part.rows, kColumns, rng));
    for (const int64_t m : {1, 2, 7, 9, 40}) {
      for (int round = 0; round < 2; ++round) {
        const std::vector<float> raw = make_bf16_rows(m, kRawColumns, rng);
        const auto run = [&](bool at_once) {
          float* const rows = side.array(raw);
          auto* const x = side.room<float>(m * kColumns);
          auto* const other = side.room<float>(m * kColumns);
          auto* const of_other = side.room<float>(m * kLast);
          std::vector<MatmulParams> products, readers;
          for (size_t i = 0; i < parts.size(); ++i) {
            float* y = nullptr;
            for (int k = 0; k < parts[i].times; ++k) {
              y = side.room<float>(m * parts[i].rows);
              products.push_back(product(x, m, weights[i], y, true));
            }
            if (parts[i].rows < kColumns) continue;
            readers.push_back(
                product(y + parts[i].rows - kColumns, m, last, side.room<float>(m * kLast), true));
            readers.back().x_stride = parts[i].rows;
          }
          const auto wait = [&] {
            if (!at_once) gpu_->synchronize();
          };
          gpu_->synchronize();
          matmul(ctx, product(rows, m, maker, x, true));
          wait();
          bool beside = false;
          if (at_once) {
            products[0].lets_next_in = &beside;
            grouped_matmul(ctx, products);
            EXPECT_EQ(beside, m <= 8 || parts.size() == 3) << m;
          } else {
            for (const MatmulParams& p : products) {
              matmul(ctx, p);
              wait();
            }
          }
          {
            Together together(ctx, beside);
            together.add(
                RmsNormParams{x, kColumns, nullptr, other, kColumns, m, kColumns, 1e-6f, true});
          }
          wait();
          for (const MatmulParams& p : readers) {
            matmul(ctx, p);
            wait();
          }
          matmul(ctx, product(other, m, last, of_other, true));
          std::vector<float> all = side.read(of_other, m * kLast);
          for (const std::vector<MatmulParams>* made : {&products, &readers}) {
            for (const MatmulParams& p : *made) {
              const std::vector<float> found = side.read(p.y, m * p.y_stride);
              all.insert(all.end(), found.begin(), found.end());
            }
          }
          return all;
        };
        const std::vector<float> expected = run(false);
        testing::expect_same(
            run(true), expected,
            "m " + std::to_string(m) + ", first of " + std::to_string(parts[0].rows) + " rows");
      }
    }
  }
}

// An op that makes the input, as a part of the product or before it.
void StreamedProducts::expect_inputs_made(int64_t rows, int64_t columns) {
  RngStream rng(5, RngPurpose::data, 0);
  const std::vector<float> g = make_f32_rows(1, columns, rng);
  Side host(nullptr), side(gpu_.get());
  device::ExecContext& ctx = side.ctx;
  side.constant(g);
  RmsNormParams norm_of{};
  SwigluParams swiglu_of{};
  const PackedWeight w = streamed(host, *gpu_, WeightFormat::fp8, rows, columns, rng);
  for (const int64_t m : {1, 2, 5, 8, 70}) {
    const std::string what = std::to_string(m) + " of " + std::to_string(columns);
    const DensePlan plan =
        make_dense_plan(device::cuda::device_of(ctx), {.form = DenseForm::official_fp8,
                                                       .m = m,
                                                       .rows = rows,
                                                       .columns = columns,
                                                       .float_rows = true})
            .value();
    EXPECT_TRUE(m > 1 || plan.makes_swiglu) << what;
    EXPECT_TRUE(m > 1 || columns > 1024 || plan.makes_norm) << what;
    float* const raw = side.array(make_bf16_rows(m, columns, rng));
    float* const up = side.array(make_bf16_rows(m, columns, rng));
    const auto run = [&](bool alone, const auto& make) {
      auto* const x = side.room<float>(m * columns);
      auto* const y = side.room<float>(m * rows);
      MatmulParams p = product(x, m, w, y, true);
      make(p, x, alone);
      matmul(ctx, p);
      return side.read(y, m * rows);
    };
    const auto norm = [&](MatmulParams& p, float* x, bool alone) {
      norm_of = {raw, columns, g.data(), x, columns, m, columns, 1e-6f, true};
      alone ? rms_norm(ctx, norm_of) : void(p.norm = &norm_of);
    };
    testing::expect_same(run(false, norm), run(true, norm), what + ", norm");
    const auto activation = [&](MatmulParams& p, float* x, bool alone) {
      swiglu_of = {raw, up, nullptr, m, columns, 0.5f, true, x, nullptr};
      alone ? swiglu(ctx, swiglu_of) : void(p.swiglu = &swiglu_of);
    };
    testing::expect_same(run(false, activation), run(true, activation), what + ", swiglu");
  }
}

TEST_F(StreamedProducts, InputsThatAreMadeOnTheWay) {
  for (const int64_t columns : {384, 1024, 1536, 2048}) expect_inputs_made(8192, columns);
}

TEST_F(StreamedProducts, SmallCase) { expect_inputs_made(8192, 384); }

constexpr int64_t kExperts = 7, kPicks = 3, kHidden = 640, kInner = 384;

// Of a layer: w1, w3, w2 of each expert.
struct LayerExperts {
  std::vector<TestWeight> weights;
  std::vector<PackedWeight> packed;

  LayerExperts(Side& host, RngStream& rng) {
    for (int64_t i = 0; i < 3 * kExperts; ++i) {
      const bool last = i % 3 == 2;
      weights.push_back(
          make_weight(WeightFormat::fp4, last ? kHidden : kInner, last ? kInner : kHidden, rng));
      packed.push_back(PackedWeight::pack(host.ctx, weights.back().tensor).value());
    }
  }
  StreamedExperts streamed(device::Gpu& gpu) const {
    const auto every_third = [&](int64_t from) {
      return ExpertWeightsRef{&packed[from], 3 * sizeof(PackedWeight)};
    };
    return StreamedExperts::create(gpu, every_third(0), every_third(1), every_third(2), kExperts)
        .value();
  }
};

TEST_F(StreamedProducts, ExpertLayer) {
  RngStream rng(2, RngPurpose::data, 0);
  std::vector<std::byte> gate_up, down;
  Side host(nullptr), side(gpu_.get());
  device::ExecContext& ctx = side.ctx;
  const LayerExperts layer(host, rng);
  for (int64_t e = 0; e < kExperts; ++e) {
    const TestWeight* const w = &layer.weights[3 * e];
    const auto first = stream_fp4_gate_up(codes_of(w[0]), scales_of(w[0]), codes_of(w[1]),
                                          scales_of(w[1]), kInner, kHidden)
                           .value();
    const auto second = stream_fp4(codes_of(w[2]), scales_of(w[2]), kHidden, kInner).value();
    gate_up.insert(gate_up.end(), first.begin(), first.end());
    down.insert(down.end(), second.begin(), second.end());
  }
  const StreamedExperts experts = layer.streamed(*gpu_);
  const std::byte* const gate_up_there = side.array(gate_up);
  const std::byte* const down_there = side.array(down);
  for (const int64_t rows : {1, 2, 5, 70, 8200}) {  // more pairs than a call of the kernels takes
    const std::vector<float> x = make_bf16_rows(rows, kHidden, rng),
                             shared = make_bf16_rows(rows, kHidden, rng);
    std::vector<int32_t> ids;
    std::vector<float> scores;
    for (int64_t i = 0; i < rows * kPicks; ++i) {
      ids.push_back(static_cast<int32_t>((i / kPicks * 2 + i % kPicks * 2) % kExperts));
      scores.push_back(0.1f + 0.01f * static_cast<float>(i % 40));
    }
    auto* out = side.room<float>(rows * kHidden);
    int32_t* const there = side.array(ids);
    float* const weights_there = side.array(scores);
    expert_layer(ctx, {&experts, rows, kPicks, side.array(x), there, weights_there, 10.0f,
                       side.array(shared), out});
    const std::vector<float> found = side.read(out, rows * kHidden);

    // The kernels', a piece of the rows at a time.
    std::vector<float> expected;
    uint16_t* const x_there = side.array(bf16(x));
    uint16_t* const shared_there = side.array(bf16(shared));
    auto* piece = side.room<uint16_t>(rows * kHidden);
    for (int64_t first = 0; first < rows; first += 33) {
      const int64_t tokens = std::min<int64_t>(33, rows - first), pairs = tokens * kPicks;
      const ExpertPlan plan =
          make_expert_plan(device::cuda::device_of(ctx), {ExpertForm::official_fp8, tokens,
                                                          kExperts, kPicks, kHidden, kInner, 10})
              .value();
      launch_expert_layer(
          plan, device::cuda::stream_of(ctx),
          {tokens,
           x_there + first * kHidden,
           there + first * kPicks,
           weights_there + first * kPicks,
           gate_up_there,
           down_there,
           shared_there + first * kHidden,
           {side.array(std::vector<int32_t>(1)), side.room<ExpertTile>(pairs),
            side.room<int32_t>(pairs * kMaxTileTokens),
            side.array(std::vector<unsigned long long>(kExpertArrivals)),
            side.room<uint16_t>(pairs * kInner), side.room<uint16_t>(pairs * kHidden)},
           piece});
      const std::vector<float> part = floats(side.read(piece, tokens * kHidden));
      expected.insert(expected.end(), part.begin(), part.end());
    }
    testing::expect_same(found, expected, std::to_string(rows) + " rows");

    ExpertLayerRows in_bf16{&experts,      rows,  kPicks,  side.array(x), there,
                            weights_there, 10.0f, nullptr, nullptr};
    in_bf16.shared_bf16 = shared_there;
    in_bf16.out_bf16 = piece;
    expert_layer(ctx, in_bf16);
    testing::expect_same(floats(side.read(piece, rows * kHidden)), expected,
                         std::to_string(rows) + " rows, summed in bf16");

    in_bf16.x = nullptr;
    in_bf16.x_bf16 = x_there;
    in_bf16.out_bf16 = side.room<uint16_t>(rows * kHidden);
    expert_layer(ctx, in_bf16);
    testing::expect_same(floats(side.read(in_bf16.out_bf16, rows * kHidden)), expected,
                         std::to_string(rows) + " rows, of bf16");
    auto* const out_of_bf16 = side.room<float>(rows * kHidden);
    ExpertLayerRows of_bf16 = in_bf16;
    of_bf16.shared = side.array(shared);
    of_bf16.out = out_of_bf16;
    of_bf16.shared_bf16 = nullptr;
    of_bf16.out_bf16 = nullptr;
    expert_layer(ctx, of_bf16);
    testing::expect_same(side.read(out_of_bf16, rows * kHidden), expected,
                         std::to_string(rows) + " rows, of bf16 to floats");
  }
}

// The experts beside the products that follow their choice; and the sum left to who reads it.
TEST_F(StreamedProducts, ExpertsBesideProducts) {
  RngStream rng(6, RngPurpose::data, 0);
  Side host(nullptr), side(gpu_.get());
  device::ExecContext& ctx = side.ctx;
  const StreamedExperts experts = LayerExperts(host, rng).streamed(*gpu_);
  const PackedWeight gate = streamed(host, *gpu_, WeightFormat::bf16, kExperts, kHidden, rng);
  const PackedWeight first = streamed(host, *gpu_, WeightFormat::fp8, 4096, kHidden, rng);
  const PackedWeight down = streamed(host, *gpu_, WeightFormat::fp8, kHidden, 4096, rng);
  for (const int64_t m : {1, 2, 5, 8, 40}) {
    for (int round = 0; round < 8; ++round) {
      const std::vector<float> raw = make_bf16_rows(m, kHidden, rng);
      const auto run = [&](bool at_once, bool sum) {
        float* const rows = side.array(raw);
        auto* const x = side.room<float>(m * kHidden);
        auto* const logits = side.room<float>(m * kExperts);
        auto* const hidden = side.room<float>(m * 4096);
        auto* const shared = side.room<float>(m * kHidden);
        auto* const ids = side.room<int32_t>(m * kPicks);
        auto* const weights = side.room<float>(m * kPicks);
        auto* const out = side.room<float>(m * kHidden);
        auto* const picks = side.room<uint16_t>(m * kPicks * kHidden);
        const auto wait = [&] {
          if (!at_once) gpu_->synchronize();
        };
        const auto multiply = [&](const MatmulParams& p) {
          matmul(ctx, p);
          wait();
        };
        rms_norm(ctx, {rows, kHidden, nullptr, x, kHidden, m, kHidden, 1e-6f, true});
        wait();
        multiply(product(x, m, gate, logits, false));
        multiply(product(x, m, first, hidden, true));
        {
          Together together(ctx);
          together.add(
              RouterParams{logits, m, kExperts, kPicks, nullptr, nullptr, 1.5f, ids, weights});
        }
        wait();
        MatmulParams last = product(hidden, m, down, shared, true);
        bool after_down = false;
        if (at_once) last.lets_next_in = &after_down;
        multiply(last);
        ExpertLayerRows p{&experts, m, kPicks, x, ids, weights, 10.0f, shared, sum ? out : nullptr};
        if (!sum) p.picks = picks;
        p.runs_beside = after_down;
        EXPECT_TRUE(after_down || !at_once || m > 2);
        expert_layer(ctx, p);
        std::vector<float> values = side.read(shared, m * kHidden);
        if (sum) {
          const std::vector<float> sums = side.read(out, m * kHidden);
          values.insert(values.end(), sums.begin(), sums.end());
          return values;
        }
        const std::vector<float> y = floats(side.read(picks, m * kPicks * kHidden));
        for (int64_t i = 0; i < m * kHidden; ++i) {
          float total = 0;
          for (int64_t k = 0; k < kPicks; ++k)
            total += y[(i / kHidden * kPicks + k) * kHidden + i % kHidden];
          values.push_back(numeric::float_from_bf16(numeric::bf16_from_float(total + values[i])));
        }
        return values;
      };
      const std::vector<float> expected = run(false, true);
      testing::expect_same(run(true, true), expected, "m " + std::to_string(m));
      testing::expect_same(run(true, false), expected, "m " + std::to_string(m) + ", no sum");
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
