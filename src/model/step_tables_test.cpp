#include "model/step_tables.h"

#include <gtest/gtest.h>

#include "device/gpu_testing.h"

namespace cachalot::model {
namespace {

TEST(StepTables, LieWhereKernelsReadThem) {
  device::FakeGpu gpu;
  device::ExecContext ctx{nullptr, nullptr, device::Isa::reference, &gpu};
  const std::vector<int32_t> tokens = {3, 1, 4, 1, 5};
  const int64_t first_row[] = {0, 2, 5}, first_position[] = {7, 0};
  std::vector<std::byte> memory(1000);
  // Of two layers, the second with an entry every 4 positions, 2 a block.
  std::byte* long_blocks[] = {memory.data(), memory.data() + 100};
  tensor::LayerRows layers[2][2] = {};
  layers[0][1].window = {memory.data() + 200, 16, {4, 0}};
  layers[1][0].entries = layers[1][0].index_keys = {long_blocks, 2, {4, 0}};
  const tensor::LayerRows* layer_rows[] = {layers[0], layers[1]};
  std::vector<formats::LayerConfig> configs(2);
  configs[1].ratio = 4;

  const ForwardBatch batch{tokens, {2, first_row, first_position}, layer_rows, true};
  const ForwardBatch placed = place_tables(ctx, batch, configs);
  EXPECT_EQ(gpu.num_staged, 0);
  EXPECT_TRUE(placed.has_entries);
  EXPECT_EQ(gpu.on_device(placed.tokens.data())[4], 5);
  EXPECT_EQ(placed.sequences.rows(), 5);
  EXPECT_EQ(gpu.on_device(placed.sequences.first_row)[1], 2);
  EXPECT_EQ(gpu.on_device(placed.sequences.first_position)[0], 7);
  const tensor::LayerRows* window_layer = gpu.on_device(placed.layer_rows[0]);
  EXPECT_EQ(window_layer[1].window.base, memory.data() + 200);
  // Positions up to 9: two entries, a block.
  const tensor::LayerRows* entry_layer = gpu.on_device(placed.layer_rows[1]);
  EXPECT_NE(entry_layer[0].entries.blocks, static_cast<std::byte* const*>(long_blocks));
  EXPECT_EQ(entry_layer[0].entries.row(1).data, memory.data() + 4);
  EXPECT_EQ(entry_layer[0].index_keys.row(1).data, memory.data() + 4);
  EXPECT_EQ(entry_layer[1].entries.blocks, nullptr);
  EXPECT_EQ(gpu.num_staged, 1);
}

TEST(StepTables, OnTheCpuAreTheBatchItself) {
  device::ExecContext ctx{nullptr, nullptr, device::Isa::reference};
  const std::vector<int32_t> tokens = {1};
  const int64_t first_row[] = {0, 1}, first_position[] = {0};
  const ForwardBatch placed = place_tables(ctx, {tokens, {1, first_row, first_position}}, {});
  EXPECT_EQ(placed.tokens.data(), tokens.data());
  EXPECT_EQ(placed.sequences.first_row, first_row);
}

}  // namespace
}  // namespace cachalot::model
