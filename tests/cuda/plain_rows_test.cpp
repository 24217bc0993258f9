// The plain ops over cached rows on the GPU: the bits of the CPU's reference, over cuts into
// sequences, formats and odd shapes.
#include <limits>
#include <random>

#include "numeric/formats.h"
#include "ops/compressor/compressor.h"
#include "ops/indexer/index_select.h"
#include "ops/quant/encode_rows.h"
#include "tests/cuda/cached_rows.h"

namespace cachalot::ops {
namespace {

using tensor::IndexFormat;
using tensor::KvFormat;
using testing::Cut;
using testing::kCuts;
using testing::LayerMemory;
using testing::Side;
class PlainRows : public testing::GpuTest {
 protected:
  void expect_selection(const Cut& cut);
};
using Rng = std::mt19937;

std::vector<float> floats(Rng& rng, int64_t count) {
  std::normal_distribution<float> normal(0, 1);
  std::uniform_int_distribution<int> pick(0, 12), exponent(-30, 30);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) {
    value = normal(rng);
    const int kind = pick(rng);
    if (kind == 0) value = 0;
    if (kind == 1) value = std::ldexp(value, exponent(rng));
    if (kind == 2) value = std::round(8 * value) / 16;
  }
  return values;
}

TEST_F(PlainRows, EncodeRows) {
  Rng rng(1);
  struct Case {
    int64_t dim, rope_dim;
  };
  for (const Case& c : {Case{512, 64}, Case{64, 16}, Case{40, 8}, Case{130, 130}}) {
    for (const KvFormat format : {KvFormat::f32, KvFormat::bf16, KvFormat::fp8}) {
      const tensor::RowLayout layout = tensor::kv_row_layout(format, c.dim, c.rope_dim);
      for (const int64_t rows : {1, 3, 65}) {
        const std::vector<float> x = floats(rng, rows * (c.dim + 3));
        compare("encode_kv_rows " + std::to_string(c.dim), [&](Side& side) {
          auto* to = side.room<std::byte>(rows * layout.row_bytes());
          encode_kv_rows(side.ctx, {side.array(x), rows, c.dim, c.dim + 3, c.rope_dim}, format,
                         side.step_rows(to, rows, layout));
          return side.read(to, rows * layout.row_bytes());
        });
      }
    }
  }
}

TEST_F(PlainRows, EncodeEntries) {
  Rng rng(2);
  for (const Cut& cut : kCuts) {
    for (const int64_t ratio : {1, 4, 128}) {
      const std::vector<float> x = floats(rng, (cut.rows() + 1) * 64);
      const auto entries = [&](const char* op, tensor::RowLayout layout, const auto& encode) {
        const LayerMemory memory(rng, layout, layout, cut.sequences());
        compare(op + std::to_string(ratio), [&](Side& side) {
          std::byte* base = memory.put(side);
          encode(side.ctx, EncodeEntriesParams{side.array(x), 64, 64, 16,
                                               side.sequences(cut.first_row(), cut.first_position),
                                               memory.layer_rows(side, base), ratio});
          return side.read(base, static_cast<int64_t>(memory.content.size()));
        });
      };
      for (const KvFormat format : {KvFormat::f32, KvFormat::bf16, KvFormat::fp8}) {
        entries("encode_kv_entries ", tensor::kv_row_layout(format, 64, 16),
                [&](device::ExecContext& ctx, const EncodeEntriesParams& p) {
                  encode_kv_entries(ctx, p, format);
                });
      }
      for (const IndexFormat format :
           {IndexFormat::f32, IndexFormat::bf16, IndexFormat::fp4, IndexFormat::fp8}) {
        entries("encode_index_entries ", tensor::index_row_layout(format, 64),
                [&](device::ExecContext& ctx, const EncodeEntriesParams& p) {
                  encode_index_entries(ctx, p, format);
                });
      }
    }
  }
}

TEST_F(PlainRows, Compress) {
  Rng rng(3);
  for (const Cut& cut : kCuts) {
    for (const int64_t ratio : {4, 128}) {
      for (const bool overlap : {false, true}) {
        for (const int64_t width : {5, 64, 512}) {
          if (overlap && ratio == 128) continue;  // the ring is not long enough
          const int64_t columns = (overlap ? 2 : 1) * width;
          const tensor::RowLayout layout{2 * columns * 4, 0};
          const LayerMemory memory(rng, layout, {4, 0}, cut.sequences());
          std::vector<float> rows = floats(rng, cut.rows() * 2 * columns);
          int64_t num_entries = 0;
          for (int64_t s = 0; s < cut.sequences(); ++s)
            num_entries +=
                (cut.first_position[s] + cut.lengths[s]) / ratio - cut.first_position[s] / ratio;
          compare(
              "compress " + std::to_string(ratio) + " " + std::to_string(width), [&](Side& side) {
                auto* out = side.room<float>(num_entries * width);
                auto* step = reinterpret_cast<std::byte*>(side.array(rows));
                compress(side.ctx,
                         {side.sequences(cut.first_row(), cut.first_position),
                          memory.layer_rows(side, memory.put(side)), tensor::Recent::tail,
                          side.step_rows(step, cut.rows(), layout), ratio, overlap, width, out});
                return side.read(out, num_entries * width);
              });
          const std::vector<float> ape = floats(rng, ratio * columns);
          compare("add_positional_bias " + std::to_string(ratio), [&](Side& side) {
            float* values = side.array(rows);
            add_positional_bias(side.ctx,
                                {values, side.sequences(cut.first_row(), cut.first_position), ratio,
                                 columns, side.table(ape)});
            return side.read(values, cut.rows() * 2 * columns);
          });
          compare("entry_positions " + std::to_string(ratio), [&](Side& side) {
            auto* positions = side.room<int64_t>(num_entries);
            entry_positions(side.ctx, side.sequences(cut.first_row(), cut.first_position), ratio,
                            positions);
            return side.read(positions, num_entries);
          });
        }
      }
    }
  }
}

TEST_F(PlainRows, StoreRecentRows) {
  Rng rng(4);
  for (const Cut& cut : kCuts) {
    for (const tensor::RowLayout layout : {tensor::RowLayout{576, 8}, tensor::RowLayout{7, 3},
                                           tensor::RowLayout{64, 0}, tensor::RowLayout{16384, 0}}) {
      const LayerMemory memory(rng, layout, {4, 0}, cut.sequences());
      std::vector<std::byte> rows(static_cast<size_t>(cut.rows() * layout.row_bytes()));
      for (std::byte& byte : rows) byte = static_cast<std::byte>(rng() & 0xFF);
      for (const bool sparse : {false, true}) {
        compare("store_recent_rows " + std::to_string(layout.data_bytes), [&](Side& side) {
          std::byte* base = memory.put(side);
          store_recent_rows(side.ctx,
                            {side.sequences(cut.first_row(), cut.first_position),
                             memory.layer_rows(side, base, sparse), tensor::Recent::window,
                             side.step_rows(side.array(rows), cut.rows(), layout)});
          return side.read(base, static_cast<int64_t>(memory.content.size()));
        });
      }
    }
  }
}

void PlainRows::expect_selection(const Cut& cut) {
  Rng rng(5);
  struct Case {
    int64_t heads, dim, topk;
  };
  for (const Case& c : {Case{64, 128, 32}, Case{3, 32, 7}, Case{5, 64, 1}}) {
    for (const IndexFormat format :
         {IndexFormat::f32, IndexFormat::bf16, IndexFormat::fp4, IndexFormat::fp8}) {
      const tensor::RowLayout layout = tensor::index_row_layout(format, c.dim);
      LayerMemory memory(rng, layout, layout, cut.sequences());
      if (format == IndexFormat::fp4) {  // codes and scales of some size
        for (std::byte& byte : memory.content) byte = static_cast<std::byte>(rng() % 16 + 119);
      } else if (format == IndexFormat::bf16) {
        for (size_t i = 0; i + 2 <= memory.content.size(); i += 2) {
          const uint16_t bits =
              numeric::bf16_from_float(static_cast<float>(static_cast<int>(rng() % 17) - 8) / 4);
          std::memcpy(memory.content.data() + i, &bits, 2);
        }
      } else if (format == IndexFormat::fp8) {
        for (std::byte& byte : memory.content) byte = static_cast<std::byte>(rng() % 60);
      }
      // Few values, so that scores tie.
      std::vector<float> q(static_cast<size_t>(cut.rows() * c.heads * c.dim));
      for (float& value : q) value = static_cast<float>(static_cast<int>(rng() % 5) - 2);
      std::vector<float> weight(static_cast<size_t>(cut.rows() * c.heads));
      for (float& value : weight) value = static_cast<float>(static_cast<int>(rng() % 9) - 4) / 8;
      weight[0] = std::numeric_limits<float>::quiet_NaN();
      for (const bool bf16 : {false, true}) {
        compare("index_select " + std::to_string(c.heads) + " format " +
                    std::to_string(static_cast<int>(format)) + (bf16 ? " bf16" : " f32"),
                [&](Side& side) {
                  auto* selected = side.room<int32_t>(cut.rows() * (c.topk + 1));
                  int32_t* num_selected = selected + cut.rows() * c.topk;
                  IndexSelectParams p{};
                  p.q = side.array(q);
                  p.weight = side.array(weight);
                  p.heads = c.heads;
                  p.dim = c.dim;
                  p.sequences = side.sequences(cut.first_row(), cut.first_position);
                  p.layer_rows = memory.layer_rows(side, memory.put(side));
                  p.ratio = 1;
                  p.topk = c.topk;
                  p.format = format;
                  p.bf16_math = bf16;
                  p.round_scores = bf16;
                  p.selected = selected;
                  p.num_selected = num_selected;
                  index_select(side.ctx, p);
                  return side.read(selected, cut.rows() * (c.topk + 1));
                });
      }
    }
  }
}

TEST_F(PlainRows, SelectEntries) {
  for (const Cut& cut : kCuts) expect_selection(cut);
}

TEST_F(PlainRows, SmallCase) { expect_selection(kCuts[3]); }

}  // namespace
}  // namespace cachalot::ops
