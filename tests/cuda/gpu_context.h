// An op on the CPU (its reference) and on the GPU with the same arguments: each side has its
// context, and copies of the arrays where its ops expect them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "device/exec_context.h"
#include "tensor/rows.h"

namespace cachalot::testing {

class Side {
 public:
  // gpu null: the CPU.
  explicit Side(device::Gpu* gpu)
      : pool_(1), arena_(int64_t{1} << 24, gpu), ctx{&pool_, &arena_, device::Isa::reference, gpu} {
    if (gpu == nullptr) return;
    gpu->begin_tables();
    constants_.emplace(*gpu);
  }

  // A copy in the context's memory.
  template <typename T>
  T* array(const std::vector<T>& values) {
    const auto num_bytes = static_cast<int64_t>(values.size() * sizeof(T));
    buffers_.push_back(device::Buffer::create(std::max<int64_t>(num_bytes, 1), ctx.gpu).value());
    auto* to = reinterpret_cast<T*>(buffers_.back().data());
    copy(to, values.data(), num_bytes);
    return to;
  }
  template <typename T>
  T* room(int64_t count) {  // NaN, or -1
    std::vector<T> values(static_cast<size_t>(count));
    std::memset(values.data(), 0xFF, values.size() * sizeof(T));
    return array(values);
  }
  // A copy in host memory that has a twin.
  template <typename T>
  T* table(const std::vector<T>& values) {
    T* to = ctx.table<T>(static_cast<int64_t>(values.size()) + 1);
    std::copy(values.begin(), values.end(), to);
    return to;
  }
  // Gives the array itself a twin; it outlives the side.
  template <typename T>
  const std::vector<T>& constant(const std::vector<T>& values) {
    if (constants_) {
      EXPECT_TRUE(constants_->add(std::span<const T>(values)).ok());
    }
    return values;
  }
  tensor::Sequences sequences(const std::vector<int64_t>& first_row,
                              const std::vector<int64_t>& first_position) {
    return {static_cast<int64_t>(first_position.size()), table(first_row), table(first_position)};
  }
  // One block of rows whose table is the step's.
  tensor::RowBlocks step_rows(std::byte* data, int64_t rows, tensor::RowLayout layout) {
    return {table(std::vector<std::byte*>{data}), rows, layout};
  }

  template <typename T>
  std::vector<T> read(const T* from, int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    copy(values.data(), from, count * static_cast<int64_t>(sizeof(T)));
    return values;
  }

 private:
  void copy(void* to, const void* from, int64_t num_bytes) {
    if (num_bytes == 0) return;
    if (ctx.gpu != nullptr) {
      ctx.gpu->copy(to, from, num_bytes);
    } else {
      std::memcpy(to, from, static_cast<size_t>(num_bytes));
    }
  }

  ThreadPool pool_;
  device::Arena arena_;
  std::deque<device::Buffer> buffers_;
  std::optional<device::ConstantTwins> constants_;

 public:
  device::ExecContext ctx;
};

inline bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
}
template <typename T>
bool same_bits(T a, T b) {
  return a == b;
}

// Which NaN a NaN is, is open.
template <typename T>
void expect_same(const std::vector<T>& found, const std::vector<T>& expected,
                 const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  int64_t num_different = 0;
  size_t first = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (same_bits(found[i], expected[i])) continue;
    if (num_different++ == 0) first = i;
  }
  if (num_different > 0) {
    FAIL() << what << ": " << num_different << " of " << found.size() << " differ, the first at "
           << first << ": " << ::testing::PrintToString(found[first]) << ", expected "
           << ::testing::PrintToString(expected[first]);
  }
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<std::unique_ptr<device::Gpu>> gpu = device::Gpu::open(0);
    if (!gpu) GTEST_SKIP() << gpu.error().message();
    gpu_ = *std::move(gpu);
  }

  // run(side) gives the values to compare.
  template <typename Run>
  void compare(const std::string& what, const Run& run) {
    Side cpu(nullptr), gpu(gpu_.get());
    const auto expected = run(cpu);
    const auto found = run(gpu);
    expect_same(found, expected, what);
  }

  std::unique_ptr<device::Gpu> gpu_;
};

}  // namespace cachalot::testing
