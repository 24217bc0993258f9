// sparse_attention on vectors. Per token: scores with lane = head (the transposed query is the
// panel, keys are its rows), so that maximum, exponential and Z run down the keys in order for all
// heads at once; then values with lane = channel (the keys are the panel as they are, p its rows).
// Keys go by in tiles of 64, chains continuing from tile to tile.
//
// Many tokens: a task is a block of neighbouring tokens of one sequence, which share their decoded
// window and, without a selection, their entries. Few tokens: the work on one token is cut over the
// pool, scores by key tiles, values by channels and heads.
#include <algorithm>
#include <array>
#include <limits>

#include "ops/attention/attention_kernels.h"
#include "ops/attention/key_list.h"
#include "ops/attention/sparse_attention_impl.h"
#include "ops/elementwise/exp.h"
#include "ops/quant/row_codec.h"
#include "tensor/ask_for.h"

namespace cachalot::ops {

const AttentionKernels& attention_kernels(device::Isa isa, bool bf16_math, int64_t heads) {
  if (isa == device::Isa::avx2) return kAttentionAvx2;
  if (isa != device::Isa::avx512bf16 || !bf16_math) return kAttentionAvx512;
  return heads <= kAttentionAvx512Bf16Narrow.lanes ? kAttentionAvx512Bf16Narrow
                                                   : kAttentionAvx512Bf16;
}

namespace {

constexpr int64_t kTileKeys = 64;
// Scratch floats: scores of a task (8 MiB; heads are taken in groups that fit) and decoded rows
// (2.5 MiB: the 640 or 1,152 keys of CSA at width 512, so that they are decoded once; longer lists
// are decoded once for scores and once for values).
constexpr int64_t kMaxScores = int64_t{1} << 21;
constexpr int64_t kMaxRowBytes = int64_t{5} << 19;
// Tokens of a block: decoding a key costs about 2 of the 16 cycles per channel that 64 heads spend
// on it, or a third of what 4 heads do; a block makes that an eighth or less and keeps its
// transposed queries within a mebibyte.
constexpr int64_t kMaxQueryFloats = int64_t{1} << 18;
constexpr int64_t kMinBlockTokens = 8;
constexpr int64_t kMaxBlockTokens = 64;
// Where one token is cut over the pool.
constexpr int64_t kTaskChannels = 64;
constexpr int64_t kTaskHeads = 36;  // a multiple of the register tile's rows

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

tensor::RowRef ring_row(const tensor::RowRing& ring, int64_t slot) {
  return {ring.base + slot * ring.layout.data_bytes,
          ring.base + ring.capacity * ring.layout.data_bytes + slot * ring.layout.scale_bytes};
}

// A row is asked for sixteen rows before it is decoded: rings of a few kilobytes and blocks far
// from each other are read sooner than a prefetcher learns.
constexpr int64_t kRowsAhead = 16;

// Neighbouring rows of one sequence.
struct Block {
  int64_t sequence;
  int64_t first;
  int64_t last;
};

// Heads [begin, end) of the call.
struct HeadGroup {
  int64_t begin;
  int64_t end;
  int64_t lanes;  // end - begin, padded
};

class Attention {
 public:
  Attention(device::ExecContext& ctx, const SparseAttentionParams& p)
      : ctx_(ctx), p_(p), kernels_(attention_kernels(ctx.isa, p.bf16_math, p.heads)) {
    const int64_t c = p.head_dim;
    padded_dim_ = round_up(c, kernels_.channel_lanes);
    row_layout_ = tensor::kv_row_layout(p.format, c, p.rope_dim);
    query_stride_ = round_up(c, 2);
    // One cache line more than whole lines: rows a power of two apart would share a few cache sets.
    row_stride_ = round_up(padded_dim_ * kernels_.key_value_bytes, 64) + 64;
    // Rows that the kernels read as they are cached: whole vectors, less than a kilobyte apart for
    // the same reason.
    const auto readable =
        kernels_.decode == nullptr ? tensor::KvFormat::f32 : tensor::KvFormat::bf16;
    direct_ = p.format == readable && padded_dim_ == c && c * kernels_.key_value_bytes < 1024;
    for_rows([&](int64_t sequence, int64_t row) {
      const KeyList keys(p, sequence, row);
      max_keys_ = std::max(max_keys_, keys.size());
      max_entries_ = std::max(max_entries_, keys.size() - keys.num_window());
      max_window_ = std::max(max_window_, keys.num_window());
    });
    const int64_t padded_heads = round_up(p.heads, kernels_.lanes);
    const int64_t fitting = kMaxScores / max_keys_ / kernels_.lanes * kernels_.lanes;
    group_heads_ = std::clamp(fitting, kernels_.lanes, padded_heads);
    num_groups_ = (p.heads + group_heads_ - 1) / group_heads_;
  }

  void run() {
    const int num_threads = ctx_.pool->num_threads();
    if (num_threads > 1 && p_.sequences.rows() <= 2 * num_threads) {
      for_rows([&](int64_t sequence, int64_t row) {
        for (int64_t g = 0; g < num_groups_; ++g) split_token(sequence, row, group(g));
      });
    } else {
      run_blocks();
    }
  }

 private:
  struct Scratch;

  template <typename Fn>
  void for_rows(const Fn& fn) const {
    for (int64_t s = 0; s < p_.sequences.count; ++s) {
      for (int64_t row = p_.sequences.first_row[s]; row < p_.sequences.first_row[s + 1]; ++row)
        fn(s, row);
    }
  }

  HeadGroup group(int64_t idx) const {
    const int64_t begin = idx * group_heads_;
    const int64_t end = std::min(p_.heads, begin + group_heads_);
    return {begin, end, round_up(end - begin, kernels_.lanes)};
  }

  // A row decoded into slot (row_stride_ bytes) as the kernels read it.
  const std::byte* key(tensor::RowRef row, std::byte* slot) const {
    if (kernels_.decode != nullptr) {
      kernels_.decode(p_.format, row.data, row.scale, p_.head_dim, p_.rope_dim, padded_dim_, slot);
      return slot;
    }
    auto* x = reinterpret_cast<float*>(slot);
    decode_kv_row(ctx_.isa, p_.format, row, p_.head_dim, p_.rope_dim, x);
    std::fill(x + p_.head_dim, x + padded_dim_, 0.0f);
    return slot;
  }

  // Rows row_of(0), ... row_of(n - 1), called in this order, in list; what is decoded in slots.
  template <typename RowOf>
  void read_keys(int64_t n, const RowOf& row_of, std::byte* slots, const std::byte** list) const {
    if (direct_) {
      for (int64_t i = 0; i < n; ++i) list[i] = row_of(i).data;
      return;
    }
    std::array<tensor::RowRef, kRowsAhead> rows;
    for (int64_t i = 0; i < n + kRowsAhead; ++i) {
      tensor::RowRef& row = rows[i % kRowsAhead];
      if (const int64_t read = i - kRowsAhead; read >= 0)
        list[read] = key(row, slots + read * row_stride_);
      if (i < n) {
        row = row_of(i);
        tensor::ask_for(row.data, row_layout_.data_bytes);
        tensor::ask_for(row.scale, row_layout_.scale_bytes);
      }
    }
  }

  const float* query(int64_t row, HeadGroup g) const {
    return p_.q + (row * p_.heads + g.begin) * p_.head_dim;
  }
  float* output(int64_t row, HeadGroup g) const {
    return p_.out + (row * p_.heads + g.begin) * p_.head_dim;
  }
  // Chains of values run in out itself where its rows are whole vectors.
  bool sums_in_out() const { return padded_dim_ == p_.head_dim; }

  // Z with the sink's term, in place of z.
  void add_sink(HeadGroup g, const float* max, float* z) const {
    for (int64_t h = g.begin; h < g.end; ++h)
      z[h - g.begin] += exp_f32(p_.sink[h] - max[h - g.begin]);
  }

  void zero_output(int64_t row, HeadGroup g) const {
    std::fill_n(output(row, g), (g.end - g.begin) * p_.head_dim, 0.0f);
  }

  void run_blocks();
  void attend_block(const Block& block, HeadGroup g, const Scratch& s) const;
  void attend_together(const Block& block, HeadGroup g, const Scratch& s) const;
  void split_token(int64_t sequence, int64_t row, HeadGroup g);

  device::ExecContext& ctx_;
  const SparseAttentionParams& p_;
  const AttentionKernels& kernels_;
  int64_t padded_dim_ = 0;
  tensor::RowLayout row_layout_;
  int64_t row_stride_ = 0;    // bytes
  int64_t query_stride_ = 0;  // floats of a prepared query's lane
  bool direct_ = false;
  int64_t max_keys_ = 1;
  int64_t max_entries_ = 0;
  int64_t max_window_ = 0;
  int64_t group_heads_ = 0;
  int64_t num_groups_ = 0;
  int64_t block_tokens_ = 1;
  int64_t max_segment_ = 0;  // entries decoded at a time
};

// Of one worker. Tokens of a block that go through the entries together have scores, queries, sums
// of their own.
struct Attention::Scratch {
  std::byte* window_rows;    // decoded, row_stride_ apart
  const std::byte** window;  // the rows of the block's positions, from that of its oldest key on
  std::byte* segment_rows;
  const std::byte** segment;
  const std::byte** list;  // one token's keys of a segment
  float* scores;           // [token][max_keys_][lanes]
  float* queries;          // [token][lanes * query_stride_]
  float* max;              // [token][lanes]
  float* z;
  float* sums;  // [token][heads of the group][padded_dim_], or null
};

void Attention::run_blocks() {
  const int64_t lanes = round_up(group_heads_, kernels_.lanes);
  const int64_t num_workers = ctx_.pool->num_threads();
  const bool together = p_.selected == nullptr;
  int64_t tokens =
      std::clamp(kMaxQueryFloats / (lanes * p_.head_dim), kMinBlockTokens, kMaxBlockTokens);
  if (together) tokens = std::min(tokens, kMaxScores / (max_keys_ * lanes));
  tokens = std::min(tokens, (p_.sequences.rows() + 2 * num_workers - 1) / (2 * num_workers));
  block_tokens_ = std::max<int64_t>(1, tokens);
  const int64_t own = together ? block_tokens_ : 1;
  const int64_t window_rows = p_.window > 0 ? max_window_ + block_tokens_ - 1 : 0;
  const int64_t row_room = std::max(kTileKeys, kMaxRowBytes / row_stride_ - window_rows);
  max_segment_ = std::min(max_entries_, row_room / 2 * 2);

  const device::ArenaScope scope(*ctx_.arena);
  device::Arena& arena = *ctx_.arena;
  Scratch* scratch = arena.allocate<Scratch>(num_workers);
  for (int64_t i = 0; i < num_workers; ++i) {
    Scratch& s = scratch[i];
    s.window_rows = direct_ ? nullptr : arena.allocate<std::byte>(window_rows * row_stride_);
    s.window = arena.allocate<const std::byte*>(window_rows);
    s.segment_rows = direct_ ? nullptr : arena.allocate<std::byte>(max_segment_ * row_stride_);
    s.segment = arena.allocate<const std::byte*>(max_segment_);
    s.list = arena.allocate<const std::byte*>(max_window_ + max_segment_);
    s.scores = arena.allocate<float>(own * max_keys_ * lanes);
    s.queries = arena.allocate<float>(own * lanes * query_stride_);
    s.max = arena.allocate<float>(own * lanes);
    s.z = arena.allocate<float>(own * lanes);
    s.sums = sums_in_out() ? nullptr : arena.allocate<float>(own * group_heads_ * padded_dim_);
  }
  const tensor::Sequences& sequences = p_.sequences;
  const auto blocks_of = [&](int64_t sequence) {  // about equal
    return (sequences.num_rows(sequence) + block_tokens_ - 1) / block_tokens_;
  };
  int64_t num_blocks = 0;
  for (int64_t i = 0; i < sequences.count; ++i) num_blocks += blocks_of(i);
  Block* blocks = arena.allocate<Block>(num_blocks);
  Block* block = blocks;
  for (int64_t i = 0; i < sequences.count; ++i) {
    const int64_t first = sequences.first_row[i], num_rows = sequences.num_rows(i);
    const int64_t count = blocks_of(i);
    for (int64_t b = 0; b < count; ++b)
      *block++ = {i, first + num_rows * b / count, first + num_rows * (b + 1) / count};
  }
  ctx_.pool->run(num_blocks * num_groups_, [&](int64_t task, int worker) {
    attend_block(blocks[task / num_groups_], group(task % num_groups_), scratch[worker]);
  });
}

void Attention::attend_block(const Block& block, HeadGroup g, const Scratch& s) const {
  const KeyList oldest(p_, block.sequence, block.first);
  if (p_.window > 0) {
    const tensor::RecentRows recent = tensor::recent_rows(
        p_.sequences, block.sequence, p_.layer_rows[block.sequence].window, p_.step_rows);
    const int64_t num_positions =
        p_.sequences.position(block.sequence, block.last) - oldest.window_begin();
    // Rows of the ring lie in a row but for its end: a division for each would be a third of the
    // time that decoding one takes.
    const tensor::RowRing& ring = recent.ring;
    const int64_t in_ring =
        std::clamp<int64_t>(recent.first_position - oldest.window_begin(), 0, num_positions);
    int64_t slot = in_ring > 0 ? oldest.window_begin() % ring.capacity : 0;
    const auto row_of = [&](int64_t i) {
      if (i >= in_ring) return recent.row(oldest.window_begin() + i);
      const int64_t found = slot;
      if (++slot == ring.capacity) slot = 0;
      return ring_row(ring, found);
    };
    read_keys(num_positions, row_of, s.window_rows, s.window);
  }
  // Segments of entries must end on an even place of every token's list: tokens whose windows
  // differ in length (at a sequence's start) go together only where one segment holds everything.
  const KeyList newest(p_, block.sequence, block.last - 1);
  const bool one_segment = newest.size() - newest.num_window() <= max_segment_;
  if (p_.selected == nullptr && (one_segment || oldest.num_window() == newest.num_window())) {
    attend_together(block, g, s);
    return;
  }
  for (int64_t row = block.first; row < block.last; ++row) {
    const int64_t skipped = KeyList(p_, block.sequence, row).window_begin() - oldest.window_begin();
    Scratch shifted = s;
    shifted.window = s.window + skipped;
    attend_together({block.sequence, row, row + 1}, g, shifted);
  }
}

void Attention::attend_together(const Block& block, HeadGroup g, const Scratch& s) const {
  const int64_t first_row = block.first;
  const KeyList first_keys(p_, block.sequence, first_row);
  const KeyList last_keys(p_, block.sequence, block.last - 1);
  const tensor::RowBlocks& entries = p_.layer_rows[block.sequence].entries;
  const int64_t num_entries = last_keys.size() - last_keys.num_window();
  const int64_t num_tokens = block.last - first_row;
  const int64_t num_heads = g.end - g.begin;
  const int64_t odd = (last_keys.num_window() + max_segment_) % 2;

  const auto decode_segment = [&](int64_t begin, int64_t end) {
    const auto row_of = [&](int64_t i) { return entries.row(last_keys.entry(begin + i)); };
    read_keys(end - begin, row_of, s.segment_rows, s.segment);
  };
  // fn(token, list place of the first key, keys in s.list) for the keys that a token has in a
  // segment.
  const auto for_tokens = [&](int64_t begin, int64_t end, auto&& fn) {
    for (int64_t token = 0; token < num_tokens; ++token) {
      const KeyList keys(p_, block.sequence, first_row + token);
      const int64_t num_window = keys.num_window();
      int64_t n = 0;
      if (begin == 0) {
        const int64_t skipped = keys.window_begin() - first_keys.window_begin();
        n = std::copy_n(s.window + skipped, num_window, s.list) - s.list;
      }
      const int64_t last_entry = std::min(end, keys.size() - num_window);
      if (last_entry > begin) n = std::copy_n(s.segment, last_entry - begin, s.list + n) - s.list;
      if (n > 0) fn(token, begin == 0 ? 0 : num_window + begin, n);
    }
  };
  const auto for_segments = [&](bool decode_first, auto&& fn) {
    int64_t begin = 0;
    do {
      int64_t end = num_entries;
      if (end - begin > max_segment_) end = begin + max_segment_ - (begin == 0 ? odd : 0);
      if (decode_first || begin > 0 || end < num_entries) decode_segment(begin, end);
      for_tokens(begin, end, fn);
      begin = end;
    } while (begin < num_entries);
  };

  for (int64_t token = 0; token < num_tokens; ++token) {
    kernels_.prepare_q(query(first_row + token, g), num_heads, p_.head_dim,
                       s.queries + token * g.lanes * query_stride_);
  }
  std::fill_n(s.max, num_tokens * g.lanes, -std::numeric_limits<float>::infinity());
  std::fill_n(s.z, num_tokens * g.lanes, 0.0f);

  for_segments(true, [&](int64_t token, int64_t place, int64_t n) {
    const float* q = s.queries + token * g.lanes * query_stride_;
    float* scores = s.scores + (token * max_keys_ + place) * g.lanes;
    for (int64_t i = 0; i < n; i += kTileKeys) {
      kernels_.score(q, g.lanes, p_.head_dim, s.list + i, std::min(kTileKeys, n - i), p_.scale,
                     p_.bf16_math, scores + i * g.lanes, s.max + token * g.lanes);
    }
  });
  const int64_t sums_stride = sums_in_out() ? p_.head_dim : padded_dim_;
  const auto sums_of = [&](int64_t token) {
    return sums_in_out() ? output(first_row + token, g) : s.sums + token * num_heads * padded_dim_;
  };
  for_segments(false, [&](int64_t token, int64_t place, int64_t n) {
    float* scores = s.scores + (token * max_keys_ + place) * g.lanes;
    for (int64_t i = 0; i < n; i += kTileKeys) {
      const int64_t num_keys = std::min(kTileKeys, n - i);
      kernels_.weigh(scores + i * g.lanes, g.lanes, num_keys, 0, g.lanes, s.max + token * g.lanes,
                     p_.bf16_math, s.z + token * g.lanes);
      kernels_.add_values(scores + i * g.lanes, g.lanes, 0, num_heads, s.list + i, num_keys, 0,
                          padded_dim_, p_.bf16_math, place + i > 0, sums_of(token), sums_stride);
    }
  });

  for (int64_t token = 0; token < num_tokens; ++token) {
    if (KeyList(p_, block.sequence, first_row + token).size() == 0) {
      zero_output(first_row + token, g);
      continue;
    }
    float* z = s.z + token * g.lanes;
    add_sink(g, s.max + token * g.lanes, z);
    for (int64_t h = 0; h < num_heads; ++h) {
      kernels_.divide(sums_of(token) + h * sums_stride, z[h], p_.head_dim, p_.bf16_math,
                      output(first_row + token, g) + h * p_.head_dim);
    }
  }
}

// Phases: scores by key tiles; p and Z by lanes; values by channels and heads.
void Attention::split_token(int64_t sequence, int64_t row, HeadGroup g) {
  const KeyList keys(p_, sequence, row);
  const int64_t n = keys.size();
  if (n == 0) return zero_output(row, g);
  const int64_t num_heads = g.end - g.begin;
  const int64_t segment =
      std::min(n, kMaxRowBytes / row_stride_ / kTileKeys * kTileKeys + kTileKeys);
  const int64_t num_tiles = (n + kTileKeys - 1) / kTileKeys;

  const device::ArenaScope scope(*ctx_.arena);
  device::Arena& arena = *ctx_.arena;
  std::byte* rows = direct_ ? nullptr : arena.allocate<std::byte>(segment * row_stride_);
  const std::byte** list = arena.allocate<const std::byte*>(segment);
  float* scores = arena.allocate<float>(n * g.lanes);
  float* q = arena.allocate<float>(g.lanes * query_stride_);
  float* tile_max = arena.allocate<float>(num_tiles * g.lanes);
  float* max = arena.allocate<float>(g.lanes);
  float* z = arena.allocate<float>(g.lanes);
  float* sums = sums_in_out() ? output(row, g) : arena.allocate<float>(num_heads * padded_dim_);
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  kernels_.prepare_q(query(row, g), num_heads, p_.head_dim, q);

  // Keys [begin, begin + num_keys) of the list, the first of them at place `begin - base` of the
  // segment.
  const auto decode_tile = [&](int64_t base, int64_t begin, int64_t num_keys) {
    const auto row_of = [&](int64_t i) { return keys.row(begin + i); };
    std::byte* slots = direct_ ? nullptr : rows + (begin - base) * row_stride_;
    read_keys(num_keys, row_of, slots, list + (begin - base));
  };
  const auto tiles_of = [&](int64_t base, auto&& fn) {
    const int64_t end = std::min(n, base + segment);
    ctx_.pool->run((end - base + kTileKeys - 1) / kTileKeys, [&](int64_t tile, int) {
      const int64_t begin = base + tile * kTileKeys;
      fn(begin, std::min(kTileKeys, end - begin));
    });
  };
  for (int64_t base = 0; base < n; base += segment) {
    tiles_of(base, [&](int64_t begin, int64_t num_keys) {
      decode_tile(base, begin, num_keys);
      float* m = tile_max + begin / kTileKeys * g.lanes;
      std::fill_n(m, g.lanes, kLowest);
      kernels_.score(q, g.lanes, p_.head_dim, list + (begin - base), num_keys, p_.scale,
                     p_.bf16_math, scores + begin * g.lanes, m);
    });
  }

  const int64_t task_lanes = std::max<int64_t>(16, kernels_.lanes);  // whole cache lines of scores
  ctx_.pool->run((g.lanes + task_lanes - 1) / task_lanes, [&](int64_t task, int) {
    const int64_t begin = task * task_lanes;
    const int64_t end = std::min(g.lanes, begin + task_lanes);
    for (int64_t lane = begin; lane < end; ++lane) {
      max[lane] = kLowest;
      for (int64_t tile = 0; tile < num_tiles; ++tile) {
        max[lane] = std::max(max[lane], tile_max[tile * g.lanes + lane]);
      }
    }
    std::fill(z + begin, z + end, 0.0f);
    kernels_.weigh(scores, g.lanes, n, begin, end, max, p_.bf16_math, z);
  });
  add_sink(g, max, z);

  const int64_t stride = sums_in_out() ? p_.head_dim : padded_dim_;
  const int64_t channel_tasks = (padded_dim_ + kTaskChannels - 1) / kTaskChannels;
  const int64_t head_tasks = (num_heads + kTaskHeads - 1) / kTaskHeads;
  for (int64_t base = 0; base < n; base += segment) {
    if (segment < n) {
      tiles_of(base, [&](int64_t begin, int64_t num_keys) { decode_tile(base, begin, num_keys); });
    }
    const int64_t end = std::min(n, base + segment);
    ctx_.pool->run(channel_tasks * head_tasks, [&](int64_t task, int) {
      const int64_t channel = task % channel_tasks * kTaskChannels;
      const int64_t last_channel = std::min(padded_dim_, channel + kTaskChannels);
      const int64_t head = task / channel_tasks * kTaskHeads;
      const int64_t last_head = std::min(num_heads, head + kTaskHeads);
      for (int64_t i = base; i < end; i += kTileKeys) {
        kernels_.add_values(scores + i * g.lanes, g.lanes, head, last_head, list + (i - base),
                            std::min(kTileKeys, end - i), channel, last_channel, p_.bf16_math,
                            i > 0, sums, stride);
      }
      if (end < n) return;
      for (int64_t h = head; h < last_head; ++h) {
        kernels_.divide(sums + h * stride + channel, z[h],
                        std::min(p_.head_dim, last_channel) - channel, p_.bf16_math,
                        output(row, g) + h * p_.head_dim + channel);
      }
    });
  }
}

}  // namespace

void sparse_attention_cpu(device::ExecContext& ctx, const SparseAttentionParams& p) {
  Attention(ctx, p).run();
}

}  // namespace cachalot::ops
