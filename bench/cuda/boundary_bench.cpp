// The mHC boundary, and the index scan with top-k.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "base/check.h"
#include "cuda/harness.h"
#include "numeric/formats.h"
#include "ops/hyper/hyper_boundary_cuda.h"
#include "ops/indexer/index_prefill_cuda.h"
#include "ops/indexer/index_select_cuda.h"

namespace cachalot::bench {
namespace {

std::vector<uint16_t> random_bf16(std::mt19937& rng, int64_t count, float size) {
  std::normal_distribution<float> normal(0, size);
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& value : values) value = numeric::bf16_from_float(normal(rng));
  return values;
}

std::vector<float> floats(const std::vector<uint16_t>& bf16) {
  std::vector<float> values;
  for (const uint16_t bits : bf16) values.push_back(numeric::float_from_bf16(bits));
  return values;
}

// Queries of `rows` rows, and where the keys of the sequences of `sets` calls lie: `blocks` of the
// pool for all sequences of a set.
struct IndexOperands {
  std::vector<float> q, weight;
  cuda::DeviceBuffer q_there, weight_there, tables, layer_rows;

  IndexOperands(Harness& h, std::mt19937& rng, const cuda::DeviceBuffer& pool,
                const std::vector<int32_t>& blocks, int64_t rows, int64_t sets,
                int64_t rows_per_block, int64_t sequences)
      : q(static_cast<size_t>(rows * 64 * 128)) {
    for (float& value : q) value = numeric::float_from_e2m1(static_cast<uint8_t>(rng() % 16));
    for (const uint16_t value : random_bf16(rng, rows * 64, 0.05f))
      weight.push_back(numeric::float_from_bf16(value));
    const auto num_blocks = static_cast<int64_t>(blocks.size());
    std::vector<std::byte*> places;
    for (int64_t set = 0; set < sets; ++set) {
      for (const int32_t block : blocks)
        places.push_back(pool.data() + (set * num_blocks + block) * rows_per_block * 68);
    }
    tables = h.put(places);
    std::vector<tensor::LayerRows> all;
    for (int64_t s = 0; s < sets * sequences; ++s) {
      all.push_back(
          {.index_keys = {
               tables.as<std::byte*>() + s * num_blocks / sequences, rows_per_block, {64, 4}}});
    }
    layer_rows = h.put(all);
    q_there = h.put(q);
    weight_there = h.put(weight);
  }
};

}  // namespace

void bench_boundary(Harness& h) {
  std::mt19937 rng(12);
  for (const int64_t d : {4096, 7168}) {
    constexpr int kSets = 64;              // of weights: beyond the L2 cache
    const int64_t fn_floats = 32 * 4 * d;  // of which 24 of 32 are read
    std::vector<float> fn(static_cast<size_t>(fn_floats));
    for (int64_t i = 0; i < fn_floats; ++i)
      fn[i] = i % 32 < 24 ? 0.02f * (static_cast<float>(rng() % 2001) / 1000 - 1) : 0;
    std::vector<std::byte> fn_bytes(static_cast<size_t>(fn_floats * 4));
    std::memcpy(fn_bytes.data(), fn.data(), fn_bytes.size());
    const cuda::DeviceBuffer fn_buffer = h.repeat(fn_bytes, kSets);
    struct Case {
      int64_t tokens, piece;  // that a launch takes
    };
    for (const auto& [tokens, piece] : {Case{1, 1}, Case{4, 4}, Case{16, 16}, Case{64, 64},
                                        Case{512, 512}, Case{4096, 512}, Case{4096, 1024}}) {
      const std::vector<uint16_t> x = random_bf16(rng, tokens * 4 * d, 1);
      std::vector<float> base(24, 0.1f), scale(3, 1.0f), post(tokens * 4, 0.5f),
          comb(tokens * 16, 0.25f);
      const cuda::DeviceBuffer streams = h.put(x),
                               y = h.put(floats(random_bf16(rng, tokens * d, 1))),
                               norm = h.put(floats(random_bf16(rng, d, 1))),
                               base_buffer = h.put(base), scale_buffer = h.put(scale),
                               post_buffer = h.put(post), comb_buffer = h.put(comb),
                               out = h.room(tokens * d * 4),
                               partial = h.room(ops::hyper_boundary_scratch(piece, d) * 4);
      const auto call_piece = [&, piece = piece](int i, int64_t first) {
        ops::HyperBoundaryParams p = {};
        p.rows = piece;
        p.d = d;
        p.streams = streams.as<uint16_t>() + first * 4 * d;
        p.y = y.as<float>() + first * d;
        p.fn = fn_buffer.as<float>() + i % kSets * fn_floats;
        p.base = base_buffer.as<float>();
        p.scale = scale_buffer.as<float>();
        p.norm = norm.as<float>();
        p.post = post_buffer.as<float>() + first * 4;
        p.comb = comb_buffer.as<float>() + first * 16;
        p.out = out.as<float>() + first * d;
        p.partial = partial.as<float>();
        ops::launch_hyper_boundary(h.stream(), p);
      };
      const auto call = [&, tokens = tokens, piece = piece](int i) {
        for (int64_t first = 0; first < tokens; first += piece) call_piece(i, first);
      };
      call(0);
      // Check: post of the last token from the streams that were written.
      const std::vector<float> found = floats(h.get<uint16_t>(streams));
      const auto found_post = h.get<float>(post_buffer);
      double squares = 0, dot = 0;
      for (int64_t i = 0; i < 4 * d; ++i) {
        const double value = found[(tokens - 1) * 4 * d + i];
        squares += value * value;
        dot += value * fn[i * 32 + 4];
      }
      const double logit = dot / std::sqrt(squares / static_cast<double>(4 * d) + 1e-6) + 0.1f;
      const double error = std::fabs(found_post[(tokens - 1) * 4] - 2 / (1 + std::exp(-logit)));
      const double bytes =
          static_cast<double>(fn_floats) * 3 + static_cast<double>(tokens * d) * (8 + 8 + 4 + 4);
      const std::string pieces = piece == tokens ? "" : fmt::format(" by {}", piece);
      h.report({"mHC boundary", (d == 4096 ? "Flash" : "Pro") + tokens_of(tokens) + pieces,
                h.time(tokens > 512 ? 6 : 48, call), bytes,
                2.0 * 24 * 4 * static_cast<double>(tokens * d), Cores::none, error, 1e-5});
    }
  }
}

void bench_index(Harness& h) {
  std::mt19937 rng(13);
  constexpr int64_t kRowsPerBlock = 64, kBlockBytes = kRowsPerBlock * 68;
  struct Case {
    int64_t rows, keys, topk;
    int sets;
  };
  for (const Case& c : {Case{1, 1024, 512, 16}, Case{1, 32768, 512, 16}, Case{8, 32768, 512, 8},
                        Case{1, 262144, 512, 8}, Case{8, 262144, 512, 2}, Case{1, 32768, 1024, 16},
                        Case{1, 262144, 1024, 8}, Case{8, 262144, 1024, 2}}) {
    const int64_t blocks_per_row = c.keys / kRowsPerBlock;
    const int64_t set_bytes = c.rows * blocks_per_row * kBlockBytes;
    std::vector<std::byte> pool(static_cast<size_t>(set_bytes));
    for (int64_t b = 0; b < c.rows * blocks_per_row; ++b) {
      for (int64_t i = 0; i < kBlockBytes; i += 4) {
        uint32_t bits = rng();
        if (i >= kRowsPerBlock * 64) bits = 0x7A7A7A7Au + (bits & 0x03030303u);
        std::memcpy(pool.data() + b * kBlockBytes + i, &bits, 4);
      }
    }
    const cuda::DeviceBuffer pool_buffer = h.repeat(pool, c.sets);
    std::vector<int32_t> blocks(static_cast<size_t>(c.rows * blocks_per_row));
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i);
    std::shuffle(blocks.begin(), blocks.end(), rng);
    const IndexOperands operands(h, rng, pool_buffer, blocks, c.rows, c.sets, kRowsPerBlock,
                                 c.rows);
    std::vector<int64_t> first_row;
    for (int64_t row = 0; row <= c.rows; ++row) first_row.push_back(row);
    const cuda::DeviceBuffer first_rows = h.put(first_row),
                             positions = h.put(std::vector<int64_t>(c.rows, c.keys - 1)),
                             selected = h.room(c.rows * c.topk * 4), num = h.room(c.rows * 4);
    const auto plan = ops::make_index_plan(h.device(), {c.rows, c.keys, c.topk});
    CACHALOT_CHECK_MSG(plan.has_value(), plan.error().message());
    const cuda::DeviceBuffer scratch = h.room(plan->scratch_bytes);
    const auto call = [&](int i) {
      ops::IndexParams p = {};
      p.rows = c.rows;
      p.q = operands.q_there.as<float>();
      p.weight = operands.weight_there.as<float>();
      p.sequences = {c.rows, first_rows.as<int64_t>(), positions.as<int64_t>()};
      p.layer_rows = operands.layer_rows.as<tensor::LayerRows>() + i % c.sets * c.rows;
      p.ratio = 1;
      p.selected = selected.as<int32_t>();
      p.num_selected = num.as<int32_t>();
      p.scratch = scratch.data();
      ops::launch_index_select(*plan, h.stream(), p);
    };
    call(0);
    // Check: of row 0, picks that ascend, and the share of them among the best by double scores.
    const auto picks = h.get<int32_t>(selected);
    std::vector<std::pair<double, int32_t>> scores;
    for (int64_t e = 0; e < c.keys; ++e) {
      const std::byte* block = pool.data() + blocks[e / kRowsPerBlock] * kBlockBytes;
      const auto* codes = reinterpret_cast<const uint8_t*>(block + e % kRowsPerBlock * 64);
      const auto* scales =
          reinterpret_cast<const uint8_t*>(block + kRowsPerBlock * 64 + e % kRowsPerBlock * 4);
      float key[128];
      for (int64_t k = 0; k < 128; ++k) {
        key[k] = numeric::float_from_e2m1(codes[k / 2] >> (k % 2 * 4) & 15) *
                 numeric::float_from_e8m0(scales[k / 32]);
      }
      double sum = 0;
      for (int64_t head = 0; head < 64 && (c.keys <= 32768 || e % 16 == 0); ++head) {
        float dot = 0;  // exact: few bits
        for (int64_t k = 0; k < 128; ++k) dot += operands.q[head * 128 + k] * key[k];
        dot = std::max(numeric::round_to_bf16(dot), 0.0f);
        sum += numeric::round_to_bf16(dot * operands.weight[head]);
      }
      if (c.keys <= 32768 || e % 16 == 0)
        scores.push_back(
            {-numeric::round_to_bf16(static_cast<float>(sum)), static_cast<int32_t>(e)});
    }
    // Of a sample of the keys a sixteenth of the picks is expected; compare by rank in the sample.
    std::sort(scores.begin(), scores.end());
    const std::vector<int32_t> row0(picks.begin(), picks.begin() + c.topk);
    int64_t in_sample = 0, wrong = 0;
    for (const auto& s : scores)
      in_sample += std::binary_search(row0.begin(), row0.end(), s.second);
    for (int64_t i = 0; i < in_sample; ++i)
      wrong += !std::binary_search(row0.begin(), row0.end(), scores[i].second);
    const bool ascends = std::is_sorted(row0.begin(), row0.end());
    const double error =
        ascends && in_sample > 0 ? static_cast<double>(wrong) / static_cast<double>(in_sample) : 1;
    h.report(
        {"index with top-k",
         fmt::format("{}, {} keys{}", c.topk == 512 ? "Flash" : "Pro", c.keys, tokens_of(c.rows)),
         h.time(16, call), static_cast<double>(set_bytes),
         2.0 * 64 * 128 * static_cast<double>(c.rows * c.keys), Cores::e4m3, error, 0.02});
  }
}

namespace {

// The last tokens of one sequence of 4 * 32768: its picks are those of the kernel above.
void bench_index_prefill(Harness& h, const char* model, int64_t topk) {
  std::mt19937 rng(17);
  constexpr int64_t kRowsPerBlock = 64, kBlockBytes = kRowsPerBlock * 68;
  constexpr int64_t kRows = 4096, kKeys = 32768, kBlocks = kKeys / kRowsPerBlock;
  std::vector<std::byte> pool(static_cast<size_t>(kBlocks * kBlockBytes));
  for (size_t i = 0; i < pool.size(); i += 4) {
    uint32_t bits = rng();
    if (i % kBlockBytes >= kRowsPerBlock * 64) bits = 0x7A7A7A7Au + (bits & 0x03030303u);
    std::memcpy(pool.data() + i, &bits, 4);
  }
  std::vector<int32_t> blocks(kBlocks);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int32_t>(i);
  const cuda::DeviceBuffer pool_buffer = h.put(pool);
  const IndexOperands operands(h, rng, pool_buffer, blocks, kRows, 1, kRowsPerBlock, 1);
  const cuda::DeviceBuffer first_rows = h.put(std::vector<int64_t>{0, kRows}),
                           positions = h.put(std::vector<int64_t>{4 * kKeys - kRows}),
                           selected = h.room(kRows * topk * 4), num = h.room(kRows * 4);
  const auto plan = ops::make_index_prefill_plan(h.device(), topk);
  CACHALOT_CHECK_MSG(plan.has_value(), plan.error().message());
  const auto decode = ops::make_index_plan(h.device(), {1, kKeys, topk});
  CACHALOT_CHECK_MSG(decode.has_value(), decode.error().message());
  const cuda::DeviceBuffer scratch = h.room(decode->scratch_bytes);
  ops::IndexParams p = {};
  p.rows = kRows;
  p.q = operands.q_there.as<float>();
  p.weight = operands.weight_there.as<float>();
  p.sequences = {1, first_rows.as<int64_t>(), positions.as<int64_t>()};
  p.layer_rows = operands.layer_rows.as<tensor::LayerRows>();
  p.ratio = 4;
  p.selected = selected.as<int32_t>();
  p.num_selected = num.as<int32_t>();
  p.scratch = scratch.data();
  const auto call = [&](int) { ops::launch_index_prefill(*plan, h.stream(), p); };
  call(0);
  const auto picks = h.get<int32_t>(selected);
  int64_t wrong = 0;
  for (const int64_t row : {0, 1, 2002, 4095}) {
    ops::IndexParams one = p;
    const cuda::DeviceBuffer own = h.room(kRows * topk * 4);
    one.first_row = row;
    one.rows = 1;
    one.selected = own.as<int32_t>();
    ops::launch_index_select(*decode, h.stream(), one);
    const auto expected = h.get<int32_t>(own);
    for (int64_t i = row * topk; i < (row + 1) * topk; ++i) wrong += expected[i] != picks[i];
  }
  h.report({"index prefill with top-k",
            fmt::format("{}, {} keys{}", model, kKeys, tokens_of(kRows)), h.time(2, call),
            static_cast<double>(kBlocks * kBlockBytes + kRows * 64 * 129 * 4),
            2.0 * 64 * 128 * static_cast<double>(kRows * kKeys), Cores::e4m3,
            static_cast<double>(wrong), 0});
}

}  // namespace

void bench_index_prefill(Harness& h) {
  bench_index_prefill(h, "Flash", 512);
  bench_index_prefill(h, "Pro", 1024);
}

}  // namespace cachalot::bench
