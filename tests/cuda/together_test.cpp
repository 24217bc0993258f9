// Ops in one launch on the GPU: the bits of the CPU's ops one after another.
#include "ops/rows/together.h"

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "numeric/formats.h"
#include "ops/matmul/matmul_test_data.h"
#include "tests/cuda/cached_rows.h"
#include "tests/cuda/cuda_fixture.h"

namespace cachalot::ops {
namespace {

using tensor::IndexFormat;
using tensor::KvFormat;
using testing::Cut;
using testing::kCuts;
using testing::LayerMemory;
using testing::Side;
using TogetherOps = testing::GpuTest;

template <typename T>
void append(std::vector<float>& to, Side& side, const T* from, int64_t count) {
  for (const T value : side.read(from, count)) to.push_back(static_cast<float>(value));
}

// All of them at once, some twice; the second norm has columns that no kernel is made for.
TEST_F(TogetherOps, HaveTheBitsOfTheOpsAlone) {
  RngStream rng(1, RngPurpose::data, 0);
  for (const int64_t rows : {1, 3, 37, 259}) {
    const auto values = [&](int64_t columns) { return make_bf16_rows(rows, columns, rng); };
    const auto low = values(1024), odd = values(96), kv = values(512), q = values(5 * 512),
               index_q = values(3 * 128), weight = values(64), gate = values(1500),
               up = values(1500), logits = values(256), angles = values(64);
    const std::vector<float> g = make_f32_rows(1, 1024, rng), bias = make_f32_rows(1, 256, rng);
    const tensor::RowLayout layout = tensor::kv_row_layout(KvFormat::fp8, 512, 64);
    compare("rows " + std::to_string(rows), [&](Side& side) {
      const float* const weights = side.constant(g).data();
      const float* const table = side.array(angles);
      Together together(side.ctx);
      float* const low_out = side.room<float>(rows * 1024);
      float* const odd_out = side.room<float>(rows * 96);
      together.add(
          RmsNormParams{side.array(low), 1024, weights, low_out, 1024, rows, 1024, 1e-6f, true});
      together.add(RmsNormParams{side.array(odd), 96, weights, odd_out, 96, rows, 96, 1e-6f, true});
      HeadRowsParams heads{};
      heads.rows = rows;
      heads.eps = 1e-6f;
      heads.rope_dim = 64;
      heads.table = {table, table + rows * 32};
      heads.round = true;
      HeadRowsParams p = heads;
      float* const q_rows = p.x = side.array(q);
      p.row_stride = 5 * 512;
      p.heads = 5;
      p.head_dim = 512;
      p.norm = HeadNorm::bf16_steps;
      together.add(p);
      p = heads;
      float* const index_rows = p.x = side.array(index_q);
      p.row_stride = 3 * 128;
      p.heads = 3;
      p.head_dim = 128;
      p.hadamard = true;
      p.snap = HeadSnap::fp4;
      together.add(p);
      p = heads;
      p.x = side.array(kv);
      p.row_stride = 512;
      p.heads = 1;
      p.head_dim = 512;
      p.norm = HeadNorm::weighted;
      p.g = weights;
      p.snap = HeadSnap::fp8;
      auto* const cached = side.room<std::byte>(rows * layout.row_bytes());
      together.add(KvRowsParams{p, KvFormat::fp8, side.step_rows(cached, rows, layout)});
      float* const scaled = side.array(weight);
      together.add(ScaleParams{scaled, rows * 64, 0.3f, true});
      RouterParams route{};
      route.logits = side.array(logits);
      route.rows = rows;
      route.n_routed_experts = 256;
      route.num_experts_per_tok = 6;
      route.bias = side.constant(bias).data();
      route.routed_scaling_factor = 1.5f;
      route.ids = side.room<int32_t>(rows * 6);
      route.weights = side.room<float>(rows * 6);
      together.add(route);
      float* const h = side.array(gate);
      together.add(SwigluParams{h, side.array(up), nullptr, rows, 1500, 2.0f, true, h});
      together.run();
      std::vector<float> all;
      append(all, side, low_out, rows * 1024);
      append(all, side, odd_out, rows * 96);
      append(all, side, q_rows, rows * 5 * 512);
      append(all, side, index_rows, rows * 3 * 128);
      append(all, side, cached, rows * layout.row_bytes());
      append(all, side, scaled, rows * 64);
      append(all, side, route.ids, rows * 6);
      append(all, side, route.weights, rows * 6);
      append(all, side, h, rows * 1500);
      return all;
    });
  }
}

// Heads of many rows take a way of their own.
TEST_F(TogetherOps, ManyHeadsHaveTheBitsOfFew) {
  RngStream rng(4, RngPurpose::data, 0);
  constexpr int64_t kRows = 259, kHeads = 3;
  Side side(gpu_.get());
  const float* const table = side.array(make_f32_rows(kRows, 64, rng));
  HeadRowsParams heads{};
  heads.rows = kRows;
  heads.heads = kHeads;
  heads.eps = 1e-6f;
  heads.rope_dim = 64;
  heads.table = {table, table + kRows * 32};
  heads.round = true;
  const auto values = [&](int64_t head_dim) {
    std::vector<float> x = make_f32_rows(kRows, kHeads * head_dim, rng);
    const auto head = [&](int64_t i) { return std::span(x).subspan(i * head_dim, head_dim); };
    for (int i = 0; i < 7; ++i) {
      for (float& value : head(i)) value = std::ldexp(value, i * 40 - 130);
    }
    std::ranges::fill(head(7), 0.0f);
    std::ranges::fill(head(8), -0.0f);
    head(9)[5] = std::numeric_limits<float>::infinity();
    head(10)[head_dim - 3] = std::numeric_limits<float>::quiet_NaN();
    for (float& value : head(11)) value = std::copysign(0x1.fcp127f, value);
    for (float& value : head(12)) value = std::round(value);
    std::ranges::fill(head(13).subspan(1), 0.0f);
    return x;
  };
  const auto together = [&](const HeadRowsParams& p) {
    Together ops(side.ctx);
    ops.add(p);
  };

  HeadRowsParams index = heads;
  index.row_stride = kHeads * 128;
  index.head_dim = 128;
  index.hadamard = true;
  index.snap = HeadSnap::fp4;
  const std::vector<float> x = values(128);
  index.x = side.array(x);
  head_rows(side.ctx, index);
  const std::vector<float> expected = side.read(index.x, kRows * kHeads * 128);
  index.x = side.array(x);
  together(index);
  testing::expect_same(side.read(index.x, kRows * kHeads * 128), expected, "index");

  std::vector<uint16_t> raw_index;
  for (const float value : x) raw_index.push_back(numeric::bf16_from_float(value));
  const auto in_bf16 = [&](const auto& run) {
    HeadRowsParams p = index;
    p.x = nullptr;
    p.from_bf16 = p.to_bf16 = side.array(raw_index);
    run(p);
    return testing::floats_of(side.read(p.to_bf16, kRows * kHeads * 128));
  };
  testing::expect_same(in_bf16(together),
                       in_bf16([&](const HeadRowsParams& p) { head_rows(side.ctx, p); }),
                       "index in bf16");

  HeadRowsParams q = heads;
  q.head_dim = 512;
  q.norm = HeadNorm::bf16_steps;
  std::vector<uint16_t> raw;
  for (const float value : values(512)) raw.push_back(numeric::bf16_from_float(value));
  q.from_bf16 = q.to_bf16 = side.array(raw);
  head_rows(side.ctx, q);
  const std::vector<uint16_t> expected_q = side.read(q.to_bf16, kRows * kHeads * 512);
  q.from_bf16 = q.to_bf16 = side.array(raw);
  together(q);
  EXPECT_EQ(side.read(q.to_bf16, kRows * kHeads * 512), expected_q);
}

TEST_F(TogetherOps, ManyRecentRowsHaveTheBitsOfTheOpAlone) {
  std::mt19937 rng(5);
  const Cut cut{{3, 0, 127}, {300, 9, 131}};
  for (const tensor::RowLayout layout : {tensor::RowLayout{576, 8}, tensor::RowLayout{7, 3}}) {
    const LayerMemory memory(rng, layout, {4, 0}, cut.sequences());
    std::vector<std::byte> rows(static_cast<size_t>(cut.rows() * layout.row_bytes()));
    for (std::byte& byte : rows) byte = static_cast<std::byte>(rng() & 0xFF);
    compare("bytes " + std::to_string(layout.data_bytes), [&](Side& side) {
      std::byte* const base = memory.put(side);
      Together together(side.ctx);
      together.add(StoreRecentParams{side.sequences(cut.first_row(), cut.first_position),
                                     memory.layer_rows(side, base, true), tensor::Recent::window,
                                     side.step_rows(side.array(rows), cut.rows(), layout)});
      together.run();
      return side.read(base, static_cast<int64_t>(memory.content.size()));
    });
  }
}

TEST_F(TogetherOps, EntriesAndRingsHaveTheBitsOfTheOpsAlone) {
  RngStream rng(2, RngPurpose::data, 0);
  std::mt19937 memory_rng(3);
  struct Case {
    tensor::Recent tail;
    int64_t width, rope_dim, ratio;
    bool overlap, hadamard;
    HeadSnap snap;
    KvFormat kv;
    IndexFormat index;
  };
  constexpr auto kTail = tensor::Recent::tail, kIndexTail = tensor::Recent::index_tail;
  for (const Case& c :
       {Case{kTail, 512, 64, 4, true, false, HeadSnap::fp8, KvFormat::fp8, IndexFormat::fp4},
        Case{kTail, 512, 64, 128, false, false, HeadSnap::fp8, KvFormat::fp8, IndexFormat::fp4},
        Case{kTail, 64, 16, 4, true, false, HeadSnap::none, KvFormat::bf16, IndexFormat::fp4},
        Case{kTail, 48, 16, 4, true, false, HeadSnap::none, KvFormat::f32, IndexFormat::fp4},
        Case{kIndexTail, 128, 64, 4, true, true, HeadSnap::fp4, KvFormat::fp8, IndexFormat::fp4},
        Case{kIndexTail, 32, 16, 4, true, true, HeadSnap::none, KvFormat::fp8, IndexFormat::fp8}}) {
    const int64_t columns = (c.overlap ? 2 : 1) * c.width;
    const tensor::RowLayout ks{2 * columns * 4, 0};
    const tensor::RowLayout row = c.tail == kTail ? tensor::kv_row_layout(c.kv, c.width, c.rope_dim)
                                                  : tensor::index_row_layout(c.index, c.width);
    std::vector<Cut> cuts(std::begin(kCuts), std::end(kCuts));
    cuts.push_back({{5, 0, 640, 127}, {260, 9, 131, 1}});  // many rows, with tails
    for (const Cut& cut : cuts) {
      const LayerMemory memory(memory_rng, ks, row, cut.sequences());
      const std::vector<float> rows = make_f32_rows(cut.rows(), 2 * columns, rng);
      const std::vector<float> ape = make_f32_rows(c.ratio, columns, rng);
      const std::vector<float> g = make_f32_rows(1, c.width, rng);
      const std::vector<float> frequencies = make_f32_rows(1, c.rope_dim / 2, rng);
      for (const bool has_entries : {false, true}) {
        compare("width " + std::to_string(c.width) + " ratio " + std::to_string(c.ratio),
                [&](Side& side) {
                  EntryRowsParams p{};
                  p.rows = side.array(rows);
                  p.step_rows =
                      side.step_rows(reinterpret_cast<std::byte*>(p.rows), cut.rows(), ks);
                  p.sequences = side.sequences(cut.first_row(), cut.first_position);
                  std::byte* const base = memory.put(side);
                  p.layer_rows = memory.layer_rows(side, base);
                  p.tail = c.tail;
                  p.ratio = c.ratio;
                  p.width = c.width;
                  p.overlap = c.overlap;
                  p.ape = side.constant(ape).data();
                  p.g = side.constant(g).data();
                  p.eps = 1e-6f;
                  p.rope_dim = c.rope_dim;
                  p.frequencies = &side.constant(frequencies);
                  p.round = true;
                  p.hadamard = c.hadamard;
                  p.snap = c.snap;
                  p.kv = c.kv;
                  p.index = c.index;
                  p.has_entries = has_entries;
                  Together together(side.ctx);
                  together.add(CompleteEntries{p});
                  together.run();
                  together.add(StoreCompressorRows{p});
                  together.run();
                  return side.read(base, static_cast<int64_t>(memory.content.size()));
                });
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
