#include "post/teacher_heads.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "device/isa.h"
#include "post/peak_memory_testing.h"

namespace cachalot::post {
namespace {

using testing::peak_since_last;

std::vector<int32_t> first_teachers(int32_t count) {
  std::vector<int32_t> out;
  for (int32_t k = 0; k < count; ++k) out.push_back(k);
  return out;
}

std::vector<float> head_of(int32_t teacher, int64_t count) {
  return std::vector<float>(static_cast<size_t>(count), static_cast<float>(teacher));
}

TEST(TeacherHeads, AreLoadedOnceAndOneByOne) {
  std::vector<int32_t> read;
  TeacherHeads heads(
      [&](int32_t teacher) -> Result<std::vector<float>> {
        read.push_back(teacher);
        return head_of(teacher, 5000 * 8);
      },
      5000, 8, device::machine_isa());
  heads.expect({4, 7, 2});
  for (const int32_t teacher : {4, 4, 7, 2, 2}) {
    const auto head = heads.use(teacher);
    ASSERT_TRUE(head.has_value()) << head.error().message();
    ASSERT_EQ((*head)->stretches.size(), 2U);
    EXPECT_EQ((*head)->stretches[0].rows(), TeacherHead::kStretch);
    EXPECT_EQ((*head)->stretches[1].rows(), 5000 - TeacherHead::kStretch);
  }
  EXPECT_EQ(heads.counts().loads, 3);
  EXPECT_EQ(heads.counts().uses, 3);
  EXPECT_LE(heads.counts().most_resident, 2);
  EXPECT_EQ(read, (std::vector<int32_t>{4, 7, 2}));
  // The last stays for the next mini-batch; one that was not expected comes too.
  heads.expect({2, 4});
  ASSERT_TRUE(heads.use(2).has_value());
  ASSERT_TRUE(heads.use(9).has_value());
  EXPECT_LE(heads.counts().most_resident, 2);
}

// Where loading keeps up with what is done between, only the first head is waited for.
TEST(TeacherHeads, NeverWaitsWhereLoadingKeepsUp) {
  TeacherHeads heads([](int32_t k) -> Result<std::vector<float>> { return head_of(k, 64 * 8); }, 64,
                     8, device::machine_isa());
  const std::vector<int32_t> teachers = first_teachers(12);
  heads.expect(teachers);
  for (const int32_t teacher : teachers) {
    while (!heads.next_is_ready()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_TRUE(heads.use(teacher).has_value());
  }
  EXPECT_EQ(heads.counts().uses, 12);
  EXPECT_EQ(heads.counts().stalls, 0);
  // One that is not being loaded is waited for, and counted.
  ASSERT_TRUE(heads.use(3).has_value());
  EXPECT_EQ(heads.counts().stalls, 1);
}

// Twelve teachers need the memory of two, within 2 %.
TEST(TeacherHeads, MemoryDoesNotGrowWithTheirNumber) {
  constexpr int64_t kVocabSize = 32768, kHiddenSize = 128;  // 16 MiB a head
  const auto peak_of = [&](int32_t count) {
    TeacherHeads heads(
        [&](int32_t k) -> Result<std::vector<float>> {
          return head_of(k, kVocabSize * kHiddenSize);
        },
        kVocabSize, kHiddenSize, device::machine_isa());
    peak_since_last();
    heads.expect(first_teachers(count));
    for (int32_t k = 0; k < count; ++k) {
      EXPECT_TRUE(heads.use(k).has_value());
      // The next one is there before this one goes, as where loading keeps up.
      while (k + 1 < count && !heads.next_is_ready())
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return static_cast<double>(peak_since_last());
  };
  peak_of(2);  // what the process needs once
  const double two = peak_of(2);
  EXPECT_LE(peak_of(12), 1.02 * two);
}

TEST(TeacherHeads, ErrorsComeWhereTheyAreUsed) {
  TeacherHeads heads(
      [](int32_t k) -> Result<std::vector<float>> {
        if (k == 1) return io_error("disk 7: expected a head, found none");
        return head_of(k, k == 2 ? 3 : 64 * 8);
      },
      64, 8, device::machine_isa());
  heads.expect({0, 1, 2});
  EXPECT_TRUE(heads.use(0).has_value());
  EXPECT_EQ(heads.use(1).error().message(), "disk 7: expected a head, found none");
  EXPECT_NE(heads.use(2).error().message().find("expected 64 x 8 values, found 3"),
            std::string::npos);
  EXPECT_TRUE(heads.use(0).has_value());
}

}  // namespace
}  // namespace cachalot::post
