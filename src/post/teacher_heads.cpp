#include "post/teacher_heads.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "formats/block_quantize.h"
#include "ops/loss/mixture_kl.h"

namespace cachalot::post {

static_assert(TeacherHead::kStretch % ops::kMixStretch == 0);

TeacherHeads::~TeacherHeads() { drop(); }

void TeacherHeads::drop() {
  if (next_) next_->loading.wait();
  next_.reset();
  current_.reset();
  current_teacher_ = -1;
}

bool TeacherHeads::next_is_ready() const {
  return next_ && next_->loading.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

void TeacherHeads::expect(std::vector<int32_t> teachers) {
  expected_ = std::move(teachers);
  num_used_ = 0;
  if (!expected_.empty() && !next_ && expected_.front() != current_teacher_)
    start(expected_.front());
}

Result<std::unique_ptr<TeacherHead>> TeacherHeads::load(int32_t teacher) const {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<float> values, read_(teacher));
  if (static_cast<int64_t>(values.size()) != vocab_size_ * hidden_size_) {
    return invalid_argument(fmt::format("head of teacher {}: expected {} x {} values, found {}",
                                        teacher, vocab_size_, hidden_size_, values.size()));
  }
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa_};
  auto head = std::make_unique<TeacherHead>();
  for (int64_t first = 0; first < vocab_size_; first += TeacherHead::kStretch) {
    const int64_t count = std::min(TeacherHead::kStretch, vocab_size_ - first);
    const std::span<const float> part =
        std::span(values).subspan(first * hidden_size_, count * hidden_size_);
    std::vector<std::byte> rounded;
    if (math_ == ops::MatmulMath::bf16) {
      rounded.resize(2 * part.size());
      formats::encode_bf16(part, rounded);
    }
    tensor::QuantTensor stretch;
    stretch.weight = {rounded.empty() ? tensor::DType::f32 : tensor::DType::bf16,
                      {count, hidden_size_},
                      rounded.empty() ? std::as_bytes(part).data() : rounded.data()};
    stretch.rows = count;
    stretch.columns = hidden_size_;
    CACHALOT_ASSIGN_OR_RETURN(ops::PackedWeight packed, ops::PackedWeight::pack(ctx, stretch));
    head->stretches.push_back(std::move(packed));
  }
  return head;
}

void TeacherHeads::start(int32_t teacher) {
  ++counts_.loads;
  next_.emplace();
  next_->teacher = teacher;
  next_->loading = std::async(std::launch::async, [this, teacher] { return load(teacher); });
  counts_.most_resident = std::max<int64_t>(counts_.most_resident, current_ == nullptr ? 1 : 2);
}

Result<const TeacherHead*> TeacherHeads::use(int32_t teacher) {
  if (teacher == current_teacher_ && current_ != nullptr) return current_.get();
  ++counts_.uses;
  if (next_ && next_->teacher != teacher) {
    next_->loading.wait();
    next_.reset();
  }
  const bool is_there = next_is_ready();
  // The one before goes first: no third is ever in memory.
  current_.reset();
  current_teacher_ = -1;
  if (!next_) start(teacher);
  using Clock = std::chrono::steady_clock;
  if (!is_there) {
    const Clock::time_point begin = Clock::now();
    next_->loading.wait();
    ++counts_.stalls;
    counts_.stall_seconds += std::chrono::duration<double>(Clock::now() - begin).count();
  }
  Result<std::unique_ptr<TeacherHead>> loaded = next_->loading.get();
  next_.reset();
  if (!loaded) return loaded.error();
  current_ = *std::move(loaded);
  current_teacher_ = teacher;
  // The one that is wanted after it.
  const auto at =
      std::find(expected_.begin() + static_cast<ptrdiff_t>(num_used_), expected_.end(), teacher);
  if (at != expected_.end()) {
    num_used_ = static_cast<size_t>(at - expected_.begin()) + 1;
    if (num_used_ < expected_.size()) start(expected_[num_used_]);
  }
  return current_.get();
}

}  // namespace cachalot::post
