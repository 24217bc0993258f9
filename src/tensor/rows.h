// Cached rows (KV rows, indexer rows, compressor tails): their storage formats and how a row is
// found. Nothing here computes; ops/quant/row_codec.h encodes and decodes.
// Source  reference/forward 3.10, reference/infrastructure 8.1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/host_device.h"

namespace cachalot::tensor {

// f32, bf16: the values as they are. fp8: the non-rotary part as e4m3 codes, the rotary part as
// bf16, one e8m0 scale per 64 codes (584 bytes for 448 + 64).
enum class KvFormat { f32, bf16, fp8 };
// fp4: packed e2m1 and one e8m0 scale per 32 (68 bytes for 128). fp8: e4m3 codes and one fp32 scale
// (132 bytes for 128).
enum class IndexFormat { f32, bf16, fp4, fp8 };

// A row's bytes in two parts. A block of n rows holds n data parts, then n scale parts.
struct RowLayout {
  int64_t data_bytes = 0;
  int64_t scale_bytes = 0;
  CACHALOT_HD int64_t row_bytes() const { return data_bytes + scale_bytes; }
};

// fp8: data head_dim - rope_dim + 2 * rope_dim; scales ceil((head_dim - rope_dim) / 64), rounded up
// to a multiple of 8.
RowLayout kv_row_layout(KvFormat format, int64_t head_dim, int64_t rope_dim);
RowLayout index_row_layout(IndexFormat format, int64_t index_head_dim);

struct RowRef {
  std::byte* data;
  std::byte* scale;
};

// Rows 0, 1, 2, ... in blocks of rows_per_block. Borrowed.
struct RowBlocks {
  std::byte* const* blocks = nullptr;
  int64_t rows_per_block = 0;
  RowLayout layout;

  CACHALOT_HD RowRef row(int64_t idx) const {
    std::byte* block = blocks[idx / rows_per_block];
    const int64_t slot = idx % rows_per_block;
    return {block + slot * layout.data_bytes,
            block + rows_per_block * layout.data_bytes + slot * layout.scale_bytes};
  }
};

// The rows of the last `capacity` positions; position p lives in slot p mod capacity. Borrowed;
// base is null where a sequence starts at position 0 and nothing is kept (training).
struct RowRing {
  std::byte* base = nullptr;
  int64_t capacity = 0;
  RowLayout layout;

  CACHALOT_HD RowRef row(int64_t position) const {
    const int64_t slot = position % capacity;
    return {base + slot * layout.data_bytes,
            base + capacity * layout.data_bytes + slot * layout.scale_bytes};
  }
};

// Where one sequence's rows of one layer are read and written. Borrowed; filled by the cache
// (serving) or with blocks over the step's own activations and null rings (training). Which members
// a layer uses follows from its kind; one that it does not use is empty.
struct LayerRows {
  RowRing window = {};        // KV rows of recent positions
  RowBlocks entries = {};     // compressed KV rows
  RowRing tail = {};          // the compressor's K, S rows of recent positions
  RowBlocks index_keys = {};  // compressed indexer rows
  RowRing index_tail = {};
};

// The rows of a step, sequence after sequence: row first_row[s] + i is position first_position[s] +
// i of sequence s. Borrowed.
struct Sequences {
  int64_t count = 0;
  const int64_t* first_row = nullptr;       // [count + 1], ascending from 0; the last is rows()
  const int64_t* first_position = nullptr;  // [count]

  CACHALOT_HD int64_t rows() const { return count == 0 ? 0 : first_row[count]; }
  CACHALOT_HD int64_t num_rows(int64_t s) const { return first_row[s + 1] - first_row[s]; }
  CACHALOT_HD int64_t sequence_of(int64_t row) const {
    int64_t first = 0, last = count;  // the last one that does not begin after the row
    while (last - first > 1) {
      const int64_t middle = (first + last) / 2;
      (first_row[middle] <= row ? first : last) = middle;
    }
    return first;
  }
  CACHALOT_HD int64_t position(int64_t s, int64_t row) const {
    return first_position[s] + row - first_row[s];
  }
  CACHALOT_HD int64_t end_position(int64_t s) const { return first_position[s] + num_rows(s); }
  // Compressed entries of `ratio` positions that the sequence's rows complete, from first_entry on.
  CACHALOT_HD int64_t first_entry(int64_t s, int64_t ratio) const {
    return first_position[s] / ratio;
  }
  CACHALOT_HD int64_t num_entries(int64_t s, int64_t ratio) const {
    return end_position(s) / ratio - first_entry(s, ratio);
  }
  CACHALOT_HD int64_t num_entries(int64_t ratio) const {
    int64_t n = 0;
    for (int64_t s = 0; s < count; ++s) n += num_entries(s, ratio);
    return n;
  }
};

// A sequence's rows up to its last position in a step: those before the step in a ring, the step's
// own among the step's rows.
struct RecentRows {
  RowRing ring;
  RowBlocks step_rows;         // of all sequences
  int64_t first_row = 0;       // of the sequence
  int64_t first_position = 0;  // of that row

  CACHALOT_HD RowRef row(int64_t position) const {
    return position >= first_position ? step_rows.row(first_row + position - first_position)
                                      : ring.row(position);
  }
};

// The kinds of recent rows that a layer keeps in rings.
enum class Recent { window, tail, index_tail };

CACHALOT_HD inline RowRing ring_of(const LayerRows& rows, Recent kind) {
  if (kind == Recent::window) return rows.window;
  return kind == Recent::tail ? rows.tail : rows.index_tail;
}

CACHALOT_HD inline RecentRows recent_rows(const Sequences& sequences, int64_t s, RowRing ring,
                                          const RowBlocks& step_rows) {
  return {ring, step_rows, sequences.first_row[s], sequences.first_position[s]};
}

}  // namespace cachalot::tensor
