// The prediction heads of distillation's teachers, of which one is in memory, and beside it the one
// that is wanted next, being loaded meanwhile.
// Source  reference/post-training 9.2: a head is loaded once in a mini-batch whose samples come
//         teacher by teacher; resident are at most one and the prefetched one.
// Errors  of what reads a head, where it is used.
// Threads  one owner; `read` is called on a thread of its own, one call at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/exec_context.h"
#include "ops/matmul/matmul.h"

namespace cachalot::post {

// A head [vocab_size, hidden_size] as products with a stretch of the vocabulary each.
struct TeacherHead {
  static constexpr int64_t kStretch = 4096;  // entries; a multiple of ops::kMixStretch
  std::vector<ops::PackedWeight> stretches;
};

class TeacherHeads {
 public:
  // [vocab_size * hidden_size] floats of a teacher's head.
  using Read = std::function<Result<std::vector<float>>(int32_t teacher)>;

  // math: bf16 where the teachers' models keep their heads in bf16, so that a head gives the bits
  // that it gives in its model.
  TeacherHeads(Read read, int64_t vocab_size, int64_t hidden_size, device::Isa isa,
               ops::MatmulMath math = ops::MatmulMath::f32)
      : read_(std::move(read)),
        vocab_size_(vocab_size),
        hidden_size_(hidden_size),
        isa_(isa),
        math_(math) {}
  ~TeacherHeads();
  TeacherHeads(const TeacherHeads&) = delete;
  TeacherHeads& operator=(const TeacherHeads&) = delete;

  int64_t vocab_size() const { return vocab_size_; }
  int64_t hidden_size() const { return hidden_size_; }
  ops::MatmulMath math() const { return math_; }

  // The teachers that will be used, in their order: what use() loads ahead.
  void expect(std::vector<int32_t> teachers);
  // Valid until the next call. A teacher that was not expected is waited for.
  Result<const TeacherHead*> use(int32_t teacher);
  // Whether the head that is wanted next is there: use() of it does not wait.
  bool next_is_ready() const;
  // Nothing stays in memory.
  void drop();

  struct Counts {
    int64_t loads = 0;
    int64_t most_resident = 0;  // heads in memory, one being loaded counted
    int64_t uses = 0;           // that changed the head
    int64_t stalls = 0;         // of these, whose head was not there
    double stall_seconds = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  struct Slot {
    int32_t teacher = -1;
    std::future<Result<std::unique_ptr<TeacherHead>>> loading;
  };
  void start(int32_t teacher);
  Result<std::unique_ptr<TeacherHead>> load(int32_t teacher) const;

  Read read_;
  int64_t vocab_size_;
  int64_t hidden_size_;
  device::Isa isa_;
  ops::MatmulMath math_;
  int32_t current_teacher_ = -1;
  std::unique_ptr<TeacherHead> current_;
  std::optional<Slot> next_;
  std::vector<int32_t> expected_;
  size_t num_used_ = 0;  // of expected_
  Counts counts_;
};

}  // namespace cachalot::post
