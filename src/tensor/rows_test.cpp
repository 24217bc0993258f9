#include "tensor/rows.h"

#include <gtest/gtest.h>

#include <vector>

namespace cachalot::tensor {
namespace {

TEST(RowLayout, BytesOfThePublishedShapes) {
  EXPECT_EQ(kv_row_layout(KvFormat::fp8, 512, 64).row_bytes(), 584);
  EXPECT_EQ(kv_row_layout(KvFormat::fp8, 512, 64).data_bytes, 576);
  EXPECT_EQ(kv_row_layout(KvFormat::bf16, 512, 64).row_bytes(), 1024);
  EXPECT_EQ(kv_row_layout(KvFormat::f32, 512, 64).row_bytes(), 2048);
  EXPECT_EQ(index_row_layout(IndexFormat::fp4, 128).row_bytes(), 68);
  EXPECT_EQ(index_row_layout(IndexFormat::fp8, 128).row_bytes(), 132);
  EXPECT_EQ(index_row_layout(IndexFormat::bf16, 128).row_bytes(), 256);
}

TEST(RowBlocks, DataPartsComeBeforeScaleParts) {
  const RowLayout layout = kv_row_layout(KvFormat::fp8, 512, 64);
  std::vector<std::byte> first(4 * layout.row_bytes()), second(4 * layout.row_bytes());
  std::byte* blocks[] = {first.data(), second.data()};
  const RowBlocks rows{blocks, 4, layout};
  EXPECT_EQ(rows.row(0).data, first.data());
  EXPECT_EQ(rows.row(3).data, first.data() + 3 * 576);
  EXPECT_EQ(rows.row(3).scale, first.data() + 4 * 576 + 3 * 8);
  EXPECT_EQ(rows.row(5).data, second.data() + 576);
  EXPECT_EQ(rows.row(7).scale + 8, second.data() + second.size());
}

// Three sequences of 3, 0 and 5 rows.
constexpr int64_t kFirstRow[] = {0, 3, 3, 8};
constexpr int64_t kFirstPosition[] = {0, 9, 6};
constexpr Sequences kSequences{3, kFirstRow, kFirstPosition};

TEST(Sequences, RowsAndPositions) {
  EXPECT_EQ(kSequences.rows(), 8);
  EXPECT_EQ(kSequences.num_rows(0), 3);
  EXPECT_EQ(kSequences.num_rows(1), 0);
  EXPECT_EQ(kSequences.num_rows(2), 5);
  EXPECT_EQ(kSequences.end_position(1), 9);
  EXPECT_EQ(kSequences.end_position(2), 11);
  const int64_t sequences[] = {0, 0, 0, 2, 2, 2, 2, 2};  // none of a row is the empty one
  const int64_t positions[] = {0, 1, 2, 6, 7, 8, 9, 10};
  for (int64_t row = 0; row < 8; ++row) {
    EXPECT_EQ(kSequences.sequence_of(row), sequences[row]) << row;
    EXPECT_EQ(kSequences.position(sequences[row], row), positions[row]) << row;
  }
  EXPECT_EQ(Sequences{}.rows(), 0);
  EXPECT_EQ(Sequences{}.num_entries(4), 0);
}

TEST(Sequences, EntriesThatTheRowsComplete) {
  // Positions 0 to 2 complete none of 4; 6 to 10 complete entry 1 (4 to 7), and 2 stays open.
  EXPECT_EQ(kSequences.num_entries(0, 4), 0);
  EXPECT_EQ(kSequences.num_entries(1, 4), 0);
  EXPECT_EQ(kSequences.first_entry(2, 4), 1);
  EXPECT_EQ(kSequences.num_entries(2, 4), 1);
  EXPECT_EQ(kSequences.num_entries(4), 1);
  // Of 2: entry 0 of the first; 3 and 4 of the last, whose position 10 opens another.
  EXPECT_EQ(kSequences.num_entries(0, 2), 1);
  EXPECT_EQ(kSequences.first_entry(2, 2), 3);
  EXPECT_EQ(kSequences.num_entries(2, 2), 2);
  EXPECT_EQ(kSequences.num_entries(2), 3);
  EXPECT_EQ(kSequences.num_entries(1), kSequences.rows());
}

TEST(RecentRows, OldPositionsComeFromTheRingAndNewOnesFromTheStep) {
  const RowLayout layout{4, 2};
  std::vector<std::byte> ring(8 * 6), step(16 * 6);
  std::byte* blocks[] = {step.data()};
  const int64_t first_row[] = {0, 3, 9}, first_position[] = {0, 21};
  const RecentRows rows = recent_rows({2, first_row, first_position}, 1, {ring.data(), 8, layout},
                                      {blocks, 16, layout});
  EXPECT_EQ(rows.row(20).data, ring.data() + 20 % 8 * 4);
  EXPECT_EQ(rows.row(20).scale, ring.data() + 8 * 4 + 20 % 8 * 2);
  EXPECT_EQ(rows.row(21).data, step.data() + 3 * 4);
  EXPECT_EQ(rows.row(25).scale, step.data() + 16 * 4 + (3 + 4) * 2);
}

TEST(LayerRows, RingsByKind) {
  std::byte bytes[3];
  LayerRows rows;
  EXPECT_EQ(ring_of(rows, Recent::window).base, nullptr);
  rows.window.base = bytes, rows.tail.base = bytes + 1, rows.index_tail.base = bytes + 2;
  EXPECT_EQ(ring_of(rows, Recent::window).base, bytes);
  EXPECT_EQ(ring_of(rows, Recent::tail).base, bytes + 1);
  EXPECT_EQ(ring_of(rows, Recent::index_tail).base, bytes + 2);
}

}  // namespace
}  // namespace cachalot::tensor
