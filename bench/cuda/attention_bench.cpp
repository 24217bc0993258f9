// Sparse decode attention: 128 window rows and top-k entries, spread over the context.
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
  };
  std::mt19937 rng(16);
  ops::prepare_sparse_decode();
  for (const Case& c :
       {Case{"Flash", 64, 512, 1}, Case{"Flash", 64, 512, 8}, Case{"Flash", 64, 512, 64},
        Case{"Flash", 64, 512, 128}, Case{"Pro", 128, 1024, 1}, Case{"Pro", 128, 1024, 8}}) {
    const int64_t entries = 8192;  // of each sequence's table
    const int64_t stride = entries / kRowsPerBlock;
    const std::vector<std::byte> block = random_rows(rng, kRowsPerBlock);
    const std::vector<std::byte> ring_bytes = random_rows(rng, kWindow);
    const int sets = c.rows <= 8 ? 8 : 2;
    const cuda::DeviceBuffer pool = h.repeat(block, c.rows * stride * sets);
    const cuda::DeviceBuffer rings = h.repeat(ring_bytes, c.rows * sets);
    std::vector<int32_t> blocks(static_cast<size_t>(c.rows * stride)), ring(c.rows);
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i);
    for (size_t i = 0; i < ring.size(); ++i) ring[i] = static_cast<int32_t>(i);
    std::shuffle(blocks.begin(), blocks.end(), rng);
    std::vector<int32_t> selected;
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t i = 0; i < c.topk; ++i)
        selected.push_back(static_cast<int32_t>((i * entries + rng() % entries) / c.topk));
    }
    std::normal_distribution<float> normal(0, 0.3f);
    std::vector<uint16_t> q(static_cast<size_t>(c.rows * c.heads * kDim));
    for (uint16_t& value : q) value = numeric::bf16_from_float(normal(rng));
    std::vector<float> rotation(static_cast<size_t>(c.rows * 64));
    for (size_t i = 0; i < rotation.size(); i += 2) rotation[i] = 1;
    const cuda::DeviceBuffer q_buffer = h.put(q), blocks_buffer = h.put(blocks),
                             ring_buffer = h.put(ring), selected_buffer = h.put(selected),
                             rotation_buffer = h.put(rotation),
                             position = h.put(std::vector<int32_t>(c.rows, 32767)),
                             num =
                                 h.put(std::vector<int32_t>(c.rows, static_cast<int32_t>(c.topk))),
                             sink = h.put(std::vector<float>(c.heads, 0.5f)),
                             out = h.room(c.rows * c.heads * kDim * 2);
    ops::SparseDecodeParams p = {};
    p.rows = c.rows;
    p.heads = c.heads;
    p.q = q_buffer.as<uint16_t>();
    p.position = position.as<int32_t>();
    p.sink = sink.as<float>();
    p.rotation = rotation_buffer.as<float>();
    p.scale = 0.04419417382415922f;
    p.window = kWindow;
    p.ring = ring_buffer.as<int32_t>();
    p.ring_bytes = kWindow * kRowBytes;
    p.window_capacity = kWindow;
    p.blocks = blocks_buffer.as<int32_t>();
    p.table_stride = stride;
    p.block_bytes = kRowsPerBlock * kRowBytes;
    p.rows_per_block = kRowsPerBlock;
    p.selected = selected_buffer.as<int32_t>();
    p.num_selected = num.as<int32_t>();
    p.topk = c.topk;
    p.out = out.as<uint16_t>();
    const int64_t triples = c.rows * ops::sparse_decode_chunks(p) * c.heads;
    const cuda::DeviceBuffer partial = h.room(triples * kDim * 4), stats = h.room(triples * 8);
    p.partial = partial.as<float>();
    p.stats = stats.as<float>();
    const auto call = [&](int i) {
      ops::SparseDecodeParams own = p;
      own.entries = pool.data() + i % sets * c.rows * stride * p.block_bytes;
      own.window_base = rings.data() + i % sets * c.rows * p.ring_bytes;
      ops::launch_sparse_decode(h.stream(), own);
    };
    call(0);
    // Check: the last row's first head.
    const std::vector<uint16_t> found = h.get<uint16_t>(out);
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
    for (int64_t i = 0; i < kWindow; ++i) add(ring_bytes, kWindow, i);
    for (int64_t i = 0; i < c.topk; ++i)
      add(block, kRowsPerBlock, selected[row * c.topk + i] % kRowsPerBlock);
    double z = std::exp(0.5);
    std::vector<double> value(kDim);
    for (const auto& key : keys) {
      double sum = 0;
      for (int64_t k = 0; k < kDim; ++k)
        sum += numeric::float_from_bf16(q[row * c.heads * kDim + k]) * key[k];
      const double weight = std::exp(sum * 0.04419417382415922);
      z += weight;
      for (int64_t k = 0; k < kDim; ++k) value[k] += weight * key[k];
    }
    double error = 0, norm = 0;
    for (int64_t k = 0; k < kDim; ++k) {
      const double expected = value[k] / z;
      error += std::pow(numeric::float_from_bf16(found[row * c.heads * kDim + k]) - expected, 2);
      norm += expected * expected;
    }
    const double us = h.time(c.rows <= 8 ? 24 : 8, call);
    h.report(
        "sparse decode",
        std::string(c.model) + " b " + std::to_string(c.rows) + " k 128+" + std::to_string(c.topk),
        us, static_cast<double>(c.rows * (kWindow + c.topk) * kRowBytes), std::sqrt(error / norm),
        8e-3);
  }
}

}  // namespace cachalot::bench
