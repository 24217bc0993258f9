// index_select on vectors. A tile of 64 keys is decoded and transposed once (lane = key) and met by
// all heads of a block of tokens; scores go straight into each token's running top-k, which lets
// through what beats its threshold. With few tokens the keys are cut into ranges as well, each with
// its own candidates; the best of all candidates are the best of all keys.
#include <algorithm>
#include <new>

#include "ops/indexer/index_kernels.h"
#include "ops/indexer/index_select_impl.h"
#include "ops/indexer/top_k.h"
#include "tensor/ask_for.h"

namespace cachalot::ops {

const IndexKernels& index_kernels(device::Isa isa, bool bf16_math) {
  if (isa == device::Isa::avx2) return kIndexAvx2;
  return isa == device::Isa::avx512bf16 && bf16_math ? kIndexAvx512Bf16 : kIndexAvx512;
}

namespace {

// Query rows of a product: enough to keep the panel busy, few enough that their dots (64 floats
// each) stay in the first-level cache. Tokens of a block: unpacking a key costs as much as one or
// two heads of 128; hundreds of rows hide it.
constexpr int64_t kProductRows = 64;
constexpr int64_t kBlockRows = 512;
constexpr int64_t kMinBlockTokens = 8;
constexpr int64_t kMaxBlockTokens = 128;
constexpr int64_t kMinRangeTiles = 16;
constexpr int64_t kMaxRanges = 64;
// Keys are asked for two tiles before they are unpacked.
constexpr int64_t kTilesAhead = 2;

// Neighbouring tokens of one sequence that meet each tile of keys together, and the ranges into
// which their keys are cut.
struct Block {
  int64_t sequence;
  int64_t first;
  int64_t last;
  int64_t num_tiles;
  int64_t num_ranges;
  int64_t first_list;  // where num_ranges > 1: of the block's candidate lists, [row][range]
};

struct Task {
  int64_t block;
  int64_t range;
};

class IndexSelect {
 public:
  IndexSelect(device::ExecContext& ctx, const IndexSelectParams& p, const ScoredRows* scored,
              int64_t count)
      : ctx_(ctx), p_(p), kernels_(index_kernels(ctx.isa, p.bf16_math)), scope_(*ctx.arena) {
    int64_t num_rows = 0;
    int64_t most = 0;
    for (int64_t i = 0; i < count; ++i) {
      num_rows += scored[i].last - scored[i].first;
      most = std::max(most, scored[i].last - scored[i].first);
    }
    const int64_t threads = ctx.pool->num_threads();
    const int64_t tokens = std::clamp(kBlockRows / p.heads, kMinBlockTokens, kMaxBlockTokens);
    block_tokens_ = std::min(tokens, std::max(kMinBlockTokens, (num_rows + threads - 1) / threads));
    block_tokens_ = std::min(block_tokens_, most);
    product_tokens_ = std::clamp<int64_t>(kProductRows / p.heads, 1, block_tokens_);
    padded_dim_ = (p.dim + 15) / 16 * 16;
    packs_fp4_ = p.format == tensor::IndexFormat::fp4 && kernels_.pack_fp4_keys != nullptr &&
                 (p.dim == 32 || p.dim == 64 || p.dim == 128);
    cut(scored, count);
  }

  void run();

 private:
  struct Scratch {
    float* keys;        // [64][padded_dim_]
    float* panel;       // [64 * padded_dim_]
    float* queries;     // prepared, of a block
    float* dots;        // [product_tokens_ * heads][64]
    float* scores;      // [64]
    float* candidates;  // [block_tokens_][capacity]
    int32_t* positions;
    TopKStream* streams;  // [block_tokens_]
  };

  int64_t visible(const Block& block, int64_t row) const {
    return visible_entries(p_, block.sequence, row);
  }
  void cut(const ScoredRows* scored, int64_t count);
  Scratch allocate_scratch();
  bool pack_fp4(const tensor::RowBlocks& keys, int64_t base, float* panel) const;
  void pack(int64_t sequence, int64_t base, int64_t n, const Scratch& s) const;
  void ask_for_keys(int64_t sequence, int64_t base, int64_t n) const;
  void scan(const Block& block, int64_t first_tile, int64_t last_tile, const Scratch& s) const;
  void score_tile(const Block& block, int64_t base, const float* queries, const Scratch& s) const;
  void write(int64_t row, int64_t count) const;
  void merge(const float* scores, const int32_t* positions, const int64_t* counts);

  device::ExecContext& ctx_;
  const IndexSelectParams& p_;
  const IndexKernels& kernels_;
  device::ArenaScope scope_;
  Block* blocks_ = nullptr;
  int64_t num_blocks_ = 0;
  Task* tasks_ = nullptr;
  int64_t num_tasks_ = 0;
  int64_t num_lists_ = 0;
  int64_t max_ranges_ = 1;
  int64_t block_tokens_ = 0;
  int64_t product_tokens_ = 0;
  int64_t padded_dim_ = 0;
  bool packs_fp4_ = false;
};

// Rows into blocks, those of a sequence about equal; with few blocks the keys of each into ranges.
void IndexSelect::cut(const ScoredRows* scored, int64_t count) {
  const auto blocks_of = [&](const ScoredRows& rows) {
    return (rows.last - rows.first + block_tokens_ - 1) / block_tokens_;
  };
  for (int64_t i = 0; i < count; ++i) num_blocks_ += blocks_of(scored[i]);
  const int64_t threads = ctx_.pool->num_threads();
  const bool few = threads > 1 && num_blocks_ < 2 * threads;
  const int64_t wanted_ranges = few ? (4 * threads + num_blocks_ - 1) / num_blocks_ : 1;
  blocks_ = ctx_.arena->allocate<Block>(num_blocks_);
  Block* block = blocks_;
  for (int64_t i = 0; i < count; ++i) {
    const ScoredRows& rows = scored[i];
    const int64_t num_rows = rows.last - rows.first, num_blocks = blocks_of(rows);
    for (int64_t b = 0; b < num_blocks; ++b) {
      *block = {rows.sequence,
                rows.first + num_rows * b / num_blocks,
                rows.first + num_rows * (b + 1) / num_blocks,
                0,
                1,
                0};
      block->num_tiles = (visible(*block, block->last - 1) + kIndexTileKeys - 1) / kIndexTileKeys;
      block->num_ranges = std::min(
          wanted_ranges, std::clamp<int64_t>(block->num_tiles / kMinRangeTiles, 1, kMaxRanges));
      if (block->num_ranges > 1) {
        block->first_list = num_lists_;
        num_lists_ += (block->last - block->first) * block->num_ranges;
      }
      max_ranges_ = std::max(max_ranges_, block->num_ranges);
      num_tasks_ += block->num_ranges;
      ++block;
    }
  }
  tasks_ = ctx_.arena->allocate<Task>(num_tasks_);
  Task* task = tasks_;
  for (int64_t b = 0; b < num_blocks_; ++b) {
    for (int64_t range = 0; range < blocks_[b].num_ranges; ++range) *task++ = {b, range};
  }
}

IndexSelect::Scratch IndexSelect::allocate_scratch() {
  device::Arena& arena = *ctx_.arena;
  const int64_t capacity = TopKStream::capacity(p_.topk);
  Scratch s;
  s.keys = arena.allocate<float>(kIndexTileKeys * padded_dim_);
  s.panel = arena.allocate<float>(kIndexTileKeys * padded_dim_);
  s.queries = kernels_.prepare_queries == nullptr
                  ? nullptr
                  : arena.allocate<float>(block_tokens_ * p_.heads * padded_dim_);
  s.dots = arena.allocate<float>(product_tokens_ * p_.heads * kIndexTileKeys);
  s.scores = arena.allocate<float>(kIndexTileKeys);
  s.candidates = arena.allocate<float>(block_tokens_ * capacity);
  s.positions = arena.allocate<int32_t>(block_tokens_ * capacity);
  s.streams = arena.allocate<TopKStream>(block_tokens_);
  return s;
}

void IndexSelect::write(int64_t row, int64_t count) const {
  std::fill(p_.selected + row * p_.topk + count, p_.selected + (row + 1) * p_.topk, -1);
  p_.num_selected[row] = static_cast<int32_t>(count);
}

// Keys of one tile, already packed, against the block's tokens.
void IndexSelect::score_tile(const Block& block, int64_t base, const float* queries,
                             const Scratch& s) const {
  for (int64_t row = block.first; row < block.last; row += product_tokens_) {
    const int64_t end = std::min(block.last, row + product_tokens_);
    if (visible(block, end - 1) <= base) continue;
    kernels_.multiply(queries + (row - block.first) * p_.heads * kernels_.query_stride(p_.dim),
                      (end - row) * p_.heads, p_.dim, s.panel, p_.bf16_math, s.dots);
    for (int64_t token = row; token < end; ++token) {
      const int64_t num_visible = visible(block, token) - base;
      if (num_visible <= 0) continue;
      kernels_.reduce(s.dots + (token - row) * p_.heads * kIndexTileKeys,
                      p_.weight + token * p_.heads, p_.heads, p_.round_scores, s.scores);
      TopKStream& stream = s.streams[token - block.first];
      uint64_t mask = stream.all() ? ~uint64_t{0} : kernels_.above(s.scores, stream.threshold());
      if (num_visible < kIndexTileKeys) mask &= (uint64_t{1} << num_visible) - 1;
      if (mask != 0) stream.offer(s.scores, mask, base);
    }
  }
}

// A whole tile of fp4 keys as they lie in the cache, where its blocks hold whole runs.
bool IndexSelect::pack_fp4(const tensor::RowBlocks& keys, int64_t base, float* panel) const {
  if (keys.rows_per_block % kIndexRunKeys != 0) return false;
  Fp4Run runs[kIndexTileKeys / kIndexRunKeys];
  for (int64_t i = 0; i < kIndexTileKeys / kIndexRunKeys; ++i) {
    const tensor::RowRef first = keys.row(base + i * kIndexRunKeys);
    runs[i] = {first.data, first.scale};
  }
  return kernels_.pack_fp4_keys(runs, p_.dim, panel);
}

void IndexSelect::pack(int64_t sequence, int64_t base, int64_t n, const Scratch& s) const {
  if (packs_fp4_ && n == kIndexTileKeys &&
      pack_fp4(p_.layer_rows[sequence].index_keys, base, s.panel))
    return;
  for (int64_t i = 0; i < n; ++i) {
    index_key(ctx_.isa, p_, sequence, base + i, s.keys + i * padded_dim_);
  }
  kernels_.pack_keys(s.keys, padded_dim_, n, p_.dim, s.panel);
}

void IndexSelect::ask_for_keys(int64_t sequence, int64_t base, int64_t n) const {
  const tensor::RowBlocks& keys = p_.layer_rows[sequence].index_keys;
  for (int64_t i = 0; i < n;) {
    const tensor::RowRef row = keys.row(base + i);
    const int64_t in_block =
        std::min(n - i, keys.rows_per_block - (base + i) % keys.rows_per_block);
    tensor::ask_for(row.data, in_block * keys.layout.data_bytes);
    tensor::ask_for(row.scale, in_block * keys.layout.scale_bytes);
    i += in_block;
  }
}

void IndexSelect::scan(const Block& block, int64_t first_tile, int64_t last_tile,
                       const Scratch& s) const {
  const int64_t capacity = TopKStream::capacity(p_.topk);
  const int64_t num_tokens = block.last - block.first;
  for (int64_t i = 0; i < num_tokens; ++i) {
    new (&s.streams[i])
        TopKStream(p_.topk, s.candidates + i * capacity, s.positions + i * capacity);
  }
  const float* queries = p_.q + block.first * p_.heads * p_.dim;
  if (kernels_.prepare_queries != nullptr) {
    kernels_.prepare_queries(queries, num_tokens * p_.heads, p_.dim, s.queries);
    queries = s.queries;
  }
  const int64_t num_keys = std::min(visible(block, block.last - 1), last_tile * kIndexTileKeys);
  for (int64_t base = first_tile * kIndexTileKeys; base < num_keys; base += kIndexTileKeys) {
    const int64_t ahead = base + kTilesAhead * kIndexTileKeys;
    ask_for_keys(block.sequence, ahead, std::min(kIndexTileKeys, num_keys - ahead));
    pack(block.sequence, base, std::min(kIndexTileKeys, num_keys - base), s);
    score_tile(block, base, queries, s);
  }
}

void IndexSelect::run() {
  const int64_t num_workers = ctx_.pool->num_threads();
  Scratch* scratch = ctx_.arena->allocate<Scratch>(num_workers);
  for (int64_t i = 0; i < num_workers; ++i) scratch[i] = allocate_scratch();
  // The best of each range of blocks that have several.
  float* scores = ctx_.arena->allocate<float>(num_lists_ * p_.topk);
  int32_t* positions = ctx_.arena->allocate<int32_t>(num_lists_ * p_.topk);
  int64_t* counts = ctx_.arena->allocate<int64_t>(num_lists_);
  ctx_.pool->run(num_tasks_, [&](int64_t task, int worker) {
    const Scratch& s = scratch[worker];
    const Block& block = blocks_[tasks_[task].block];
    const int64_t range = tasks_[task].range;
    scan(block, block.num_tiles * range / block.num_ranges,
         block.num_tiles * (range + 1) / block.num_ranges, s);
    for (int64_t row = block.first; row < block.last; ++row) {
      TopKStream& stream = s.streams[row - block.first];
      if (block.num_ranges == 1) {
        write(row, stream.finish(p_.selected + row * p_.topk));
        continue;
      }
      const int64_t list = block.first_list + (row - block.first) * block.num_ranges + range;
      counts[list] = stream.finish(positions + list * p_.topk);
      std::copy_n(stream.scores(), counts[list], scores + list * p_.topk);
    }
  });
  if (num_lists_ > 0) merge(scores, positions, counts);
}

// The best of all candidates of each row whose keys were cut.
void IndexSelect::merge(const float* scores, const int32_t* positions, const int64_t* counts) {
  const int64_t num_workers = ctx_.pool->num_threads();
  const int64_t room = max_ranges_ * p_.topk;
  float* joined_scores = ctx_.arena->allocate<float>(num_workers * room);
  int32_t* joined_positions = ctx_.arena->allocate<int32_t>(num_workers * room);
  ctx_.pool->run(num_blocks_, [&](int64_t idx, int worker) {
    const Block& block = blocks_[idx];
    if (block.num_ranges == 1) return;
    float* row_scores = joined_scores + worker * room;
    int32_t* row_positions = joined_positions + worker * room;
    for (int64_t row = block.first; row < block.last; ++row) {
      const int64_t first_list = block.first_list + (row - block.first) * block.num_ranges;
      int64_t n = 0;
      for (int64_t list = first_list; list < first_list + block.num_ranges; ++list) {
        std::copy_n(scores + list * p_.topk, counts[list], row_scores + n);
        std::copy_n(positions + list * p_.topk, counts[list], row_positions + n);
        n += counts[list];
      }
      int32_t* selected = p_.selected + row * p_.topk;
      const int64_t count = top_k_positions(ctx_.isa, row_scores, n, p_.topk, selected);
      for (int64_t i = 0; i < count; ++i) selected[i] = row_positions[selected[i]];
      write(row, count);
    }
  });
}

}  // namespace

void index_select_cpu(device::ExecContext& ctx, const IndexSelectParams& p,
                      const ScoredRows* scored, int64_t count) {
  IndexSelect(ctx, p, scored, count).run();
}

}  // namespace cachalot::ops
