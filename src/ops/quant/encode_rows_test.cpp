// Rows of many sequences reach their blocks as row_codec.h encodes one.
#include "ops/quant/encode_rows.h"

#include "ops/elementwise/kernel_test.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

using tensor::IndexFormat;
using tensor::KvFormat;
using tensor::RowBlocks;
using tensor::RowLayout;
using tensor::RowRef;

constexpr int64_t kDim = 128;
constexpr int64_t kRope = 32;
constexpr int64_t kStride = kDim + 3;
constexpr std::byte kUntouched{0xA5};

// Rows in blocks of two that lie apart, the later block first.
class Pages {
 public:
  Pages(int64_t num_rows, RowLayout layout) : layout_(layout) {
    const int64_t num_blocks = (num_rows + 1) / 2, block_bytes = 2 * layout.row_bytes();
    bytes_.assign(static_cast<size_t>(num_blocks * block_bytes), kUntouched);
    for (int64_t i = num_blocks; i-- > 0;) blocks_.push_back(bytes_.data() + i * block_bytes);
  }
  RowBlocks view() const { return {blocks_.data(), 2, layout_}; }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  RowLayout layout_;
  std::vector<std::byte> bytes_;
  std::vector<std::byte*> blocks_;
};

TEST(EncodeRows, RowsGoToTheRowsOfTheirNumber) {
  constexpr int64_t kRows = 67;
  const std::vector<float> x = random_values(kRows * kStride, 3, 5.0);
  for (KvFormat format : {KvFormat::f32, KvFormat::bf16, KvFormat::fp8}) {
    const RowLayout layout = tensor::kv_row_layout(format, kDim, kRope);
    Pages expected(kRows, layout), found(kRows, layout);
    for (int64_t i = 0; i < kRows; ++i)
      encode_kv_row(format, x.data() + i * kStride, kDim, kRope, expected.view().row(i));
    TestContext ctx(device::machine_isa(), 2);
    encode_kv_rows(ctx, {x.data(), kRows, kDim, kStride, kRope}, format, found.view());
    EXPECT_EQ(found.bytes(), expected.bytes());
    encode_kv_rows(ctx, {x.data(), 0, kDim, kStride, kRope}, format, {});
  }
}

// Sequences that complete entries 0 and 1, none (no row), 3 to 5, none (too few rows), 40 to 72.
struct Step {
  static constexpr int64_t kCount = 5, kRatio = 4;
  const int64_t first_row[kCount + 1] = {0, 9, 9, 20, 22, 154};
  const int64_t first_position[kCount] = {0, 8, 13, 5, 160};
  const std::vector<std::vector<int64_t>> entries = {{0, 1}, {}, {3, 4, 5}, {}, many()};
  tensor::Sequences sequences() const { return {kCount, first_row, first_position}; }

  static std::vector<int64_t> many() {
    std::vector<int64_t> out;
    for (int64_t e = 40; e < 73; ++e) out.push_back(e);
    return out;
  }
};

// encode(params) against encode_one(values, row) for every entry; all other bytes stay.
template <typename Encode, typename EncodeOne>
void check_entries(RowLayout layout, RowBlocks tensor::LayerRows::*kind, const Encode& encode,
                   const EncodeOne& encode_one) {
  const Step step;
  const std::vector<float> x = random_values(38 * kStride, 4, 5.0);
  std::vector<Pages> expected, found;
  std::vector<tensor::LayerRows> rows(Step::kCount);
  int64_t i = 0;
  for (size_t s = 0; s < Step::kCount; ++s) {
    expected.emplace_back(80, layout);
    found.emplace_back(80, layout);
    for (int64_t entry : step.entries[s])
      encode_one(x.data() + i++ * kStride, expected.back().view().row(entry));
  }
  ASSERT_EQ(i, step.sequences().num_entries(Step::kRatio));
  for (size_t s = 0; s < Step::kCount; ++s) rows[s].*kind = found[s].view();
  encode({x.data(), kDim, kStride, kRope, step.sequences(), rows.data(), Step::kRatio});
  for (size_t s = 0; s < Step::kCount; ++s)
    EXPECT_EQ(found[s].bytes(), expected[s].bytes()) << "sequence " << s;
}

TEST(EncodeEntries, KvEntriesOfEverySequenceFindTheirPlaces) {
  TestContext ctx(device::machine_isa(), 2);
  for (KvFormat format : {KvFormat::f32, KvFormat::bf16, KvFormat::fp8}) {
    check_entries(
        tensor::kv_row_layout(format, kDim, kRope), &tensor::LayerRows::entries,
        [&](const EncodeEntriesParams& p) { encode_kv_entries(ctx, p, format); },
        [&](const float* x, RowRef row) { encode_kv_row(format, x, kDim, kRope, row); });
  }
}

TEST(EncodeEntries, IndexEntriesOfEverySequenceFindTheirPlaces) {
  TestContext ctx(device::machine_isa(), 2);
  for (IndexFormat format :
       {IndexFormat::f32, IndexFormat::bf16, IndexFormat::fp4, IndexFormat::fp8}) {
    check_entries(
        tensor::index_row_layout(format, kDim), &tensor::LayerRows::index_keys,
        [&](const EncodeEntriesParams& p) { encode_index_entries(ctx, p, format); },
        [&](const float* x, RowRef row) { encode_index_row(format, x, kDim, row); });
  }
}

}  // namespace
}  // namespace cachalot::ops
