// Sparse attention over fp8 rows: 128 window rows and top-k entries, spread over the context.
// Decode: each row of its own sequence, by both forms. Prefill: the rows of one sequence. Queries
// and results are as in the forward: floats, or of a prefill bf16.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "base/check.h"
#include "cuda/harness.h"
#include "numeric/formats.h"
#include "ops/attention/sparse_decode_cuda.h"

namespace cachalot::bench {
namespace {

constexpr int64_t kDim = 512, kData = 576, kRowBytes = 584, kWindow = 128, kRowsPerBlock = 64;

// Rows that any decoder takes: codes below 0x40, rotary values of one, scales around 1 / 16.
std::vector<std::byte> random_rows(std::mt19937& rng, int64_t rows) {
  std::vector<std::byte> block(static_cast<size_t>(rows * kRowBytes));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < 448; ++k) block[i * kData + k] = static_cast<std::byte>(rng() & 0xBF);
    for (int64_t k = 0; k < 64; ++k) {
      const uint16_t value = static_cast<uint16_t>(0x3F00 + (rng() & 0x807F));
      std::memcpy(block.data() + i * kData + 448 + 2 * k, &value, 2);
    }
    for (int64_t k = 0; k < 7; ++k)
      block[rows * kData + i * 8 + k] = static_cast<std::byte>(121 + rng() % 4);
  }
  return block;
}

}  // namespace

void bench_attention(Harness& h) {
  struct Case {
    const char* model;
    int64_t heads, topk, rows;
    int64_t entries;  // of a sequence
    bool prefill;
  };
  std::mt19937 rng(16);
  ops::prepare_sparse_decode();
  for (const Case& c :
       {Case{"Flash", 64, 512, 1, 8192, false}, Case{"Flash", 64, 512, 8, 8192, false},
        Case{"Flash", 64, 512, 16, 8192, false}, Case{"Flash", 64, 512, 32, 8192, false},
        Case{"Flash", 64, 512, 64, 8192, false}, Case{"Flash", 64, 512, 128, 8192, false},
        // A full wave, and one row more.
        Case{"Flash", 64, 512, 132, 8192, false}, Case{"Flash", 64, 512, 133, 8192, false},
        Case{"Pro", 128, 1024, 1, 8192, false}, Case{"Pro", 128, 1024, 8, 8192, false},
        Case{"Pro", 128, 1024, 64, 8192, false}, Case{"Flash", 64, 512, 4096, 1024, true},
        Case{"Flash", 64, 512, 4096, 32768, true}, Case{"Pro", 128, 1024, 4096, 32768, true}}) {
    const int64_t entries = c.entries, sequences = c.prefill ? 1 : c.rows;
    const int64_t stride = entries / kRowsPerBlock, positions = 4 * entries;
    const std::vector<std::byte> block = random_rows(rng, kRowsPerBlock);
    const std::vector<std::byte> ring = random_rows(rng, kWindow);
    const std::vector<std::byte> step = random_rows(rng, c.rows);
    const int sets = c.rows <= 8 ? 8 : 2;
    const cuda::DeviceBuffer pool = h.repeat(block, sequences * stride * sets);
    const cuda::DeviceBuffer rings = h.repeat(ring, sequences * sets);
    std::vector<int64_t> places(static_cast<size_t>(sequences * stride));
    for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int64_t>(i);
    std::shuffle(places.begin(), places.end(), rng);
    std::vector<std::byte*> blocks;
    for (int64_t set = 0; set < sets; ++set) {
      for (const int64_t place : places)
        blocks.push_back(pool.data() +
                         (set * sequences * stride + place) * kRowsPerBlock * kRowBytes);
    }
    const cuda::DeviceBuffer blocks_buffer = h.put(blocks);
    std::vector<tensor::LayerRows> layer_rows;
    const tensor::RowLayout layout = {kData, kRowBytes - kData};
    for (int64_t s = 0; s < sets * sequences; ++s) {
      layer_rows.push_back(
          {.window = {rings.data() + s * kWindow * kRowBytes, kWindow, layout},
           .entries = {blocks_buffer.as<std::byte*>() + s * stride, kRowsPerBlock, layout}});
    }
    std::vector<int64_t> first_row, first_position;
    for (int64_t s = 0; s <= sequences; ++s) first_row.push_back(c.prefill ? s * c.rows : s);
    first_position.assign(static_cast<size_t>(sequences),
                          c.prefill ? positions - c.rows : positions - 1);
    std::vector<int32_t> selected;
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t i = 0; i < c.topk; ++i)
        selected.push_back(static_cast<int32_t>((i * entries + rng() % entries) / c.topk));
    }
    // One row's queries and those of 63 others, again and again.
    std::normal_distribution<float> normal(0, 0.3f);
    const int64_t q_rows = std::min<int64_t>(c.rows, 64);
    std::vector<float> q(static_cast<size_t>(q_rows * c.heads * kDim));
    for (float& value : q) value = numeric::round_to_bf16(normal(rng));
    const int64_t value_bytes = c.prefill ? 2 : 4;
    std::vector<std::byte> q_bytes(q.size() * value_bytes);
    for (size_t i = 0; i < q.size(); ++i) {
      const uint16_t bits = numeric::bf16_from_float(q[i]);
      std::memcpy(q_bytes.data() + i * value_bytes,
                  c.prefill ? static_cast<const void*>(&bits) : &q[i], value_bytes);
    }
    const cuda::DeviceBuffer q_buffer = h.repeat(q_bytes, (c.rows + q_rows - 1) / q_rows),
                             layer_rows_buffer = h.put(layer_rows), step_buffer = h.put(step),
                             first_row_buffer = h.put(first_row),
                             first_position_buffer = h.put(first_position),
                             selected_buffer = h.put(selected),
                             num =
                                 h.put(std::vector<int32_t>(c.rows, static_cast<int32_t>(c.topk))),
                             sink = h.put(std::vector<float>(c.heads, 0.5f)),
                             out = h.room(c.rows * c.heads * kDim * value_bytes);
    ops::SparseDecodeParams p = {};
    p.rows = c.rows;
    p.heads = c.heads;
    if (c.prefill) {
      p.q_bf16 = q_buffer.as<uint16_t>();
      p.out_bf16 = out.as<uint16_t>();
    } else {
      p.q = q_buffer.as<float>();
      p.out = out.as<float>();
    }
    p.sink = sink.as<float>();
    p.scale = 0.04419417382415922f;
    p.sequences = {sequences, first_row_buffer.as<int64_t>(), first_position_buffer.as<int64_t>()};
    p.step_rows = step_buffer.data();
    p.window = kWindow;
    p.ratio = 4;
    p.selected = selected_buffer.as<int32_t>();
    p.num_selected = num.as<int32_t>();
    p.topk = p.max_entries = c.topk;
    const cuda::DeviceBuffer scratch = h.room(c.prefill ? 16 : ops::sparse_decode_scratch_bytes(p));
    p.scratch = scratch.data();
    auto form = ops::SparseForm::whole;
    const auto call = [&](int i) {
      ops::SparseDecodeParams own = p;
      own.layer_rows = layer_rows_buffer.as<tensor::LayerRows>() + i % sets * sequences;
      ops::launch_sparse_decode(h.device(), h.stream(), form, own);
    };
    // The last row's first head.
    const int64_t row = c.rows - 1;
    std::vector<std::vector<double>> keys;
    const auto add = [&](const std::vector<std::byte>& from, int64_t rows, int64_t slot) {
      std::vector<double>& key = keys.emplace_back(kDim);
      for (int64_t k = 0; k < kDim; ++k) {
        if (k < 448) {
          key[k] = numeric::float_from_e4m3(static_cast<uint8_t>(from[slot * kData + k])) *
                   numeric::float_from_e8m0(
                       static_cast<uint8_t>(from[rows * kData + slot * 8 + k / 64]));
        } else {
          uint16_t bits;
          std::memcpy(&bits, from.data() + slot * kData + 448 + (k - 448) * 2, 2);
          key[k] = numeric::float_from_bf16(bits);
        }
      }
    };
    for (int64_t i = 0; i < kWindow; ++i) {
      const bool is_before = !c.prefill && i > 0;
      add(is_before ? ring : step, is_before ? kWindow : c.rows,
          is_before ? (positions - 1 - i) % kWindow : row - i);
    }
    for (int64_t i = 0; i < c.topk; ++i)
      add(block, kRowsPerBlock, selected[row * c.topk + i] % kRowsPerBlock);
    double z = std::exp(0.5);
    std::vector<double> value(kDim);
    for (const auto& key : keys) {
      double sum = 0;
      for (int64_t k = 0; k < kDim; ++k) sum += q[row % q_rows * c.heads * kDim + k] * key[k];
      const double weight = std::exp(sum * 0.04419417382415922);
      z += weight;
      for (int64_t k = 0; k < kDim; ++k) value[k] += weight * key[k];
    }
    for (const auto tried : {ops::SparseForm::split, ops::SparseForm::whole}) {
      const bool split = tried == ops::SparseForm::split;
      if (split && c.prefill) continue;
      form = tried;
      call(0);
      std::vector<float> found;
      if (c.prefill) {
        for (const uint16_t bits : h.get<uint16_t>(out))
          found.push_back(numeric::float_from_bf16(bits));
      } else {
        found = h.get<float>(out);
      }
      double error = 0, norm = 0;
      for (int64_t k = 0; k < kDim; ++k) {
        const double expected = value[k] / z;
        error += std::pow(found[row * c.heads * kDim + k] - expected, 2);
        norm += expected * expected;
      }
      const int64_t keys = kWindow + c.topk;
      const int64_t cached = c.prefill ? entries + c.rows : c.rows * keys;  // rows, read once
      h.report({c.prefill ? "sparse prefill"
                : split   ? "sparse decode, split"
                          : "sparse decode, whole",
                c.prefill ? fmt::format("{}, {} entries{}", c.model, entries, tokens_of(c.rows))
                          : c.model + tokens_of(c.rows),
                h.time(c.rows <= 8 ? 24
                       : c.prefill ? 3
                                   : 8,
                       call),
                static_cast<double>(cached * kRowBytes + c.rows * 2 * c.heads * kDim * value_bytes),
                4.0 * static_cast<double>(c.rows * c.heads * kDim * keys), Cores::bf16,
                std::sqrt(error / norm), 8e-3});
    }
  }
}

}  // namespace cachalot::bench
