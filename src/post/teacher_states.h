// A teacher's final states at the response tokens of its samples, on disk: what distillation keeps
// of a teacher's forward pass instead of its logits (reference/post-training 9.2).
// File    safetensors: samples I64 [n], ids in the order written; offsets I64 [n + 1], rows; states
//         F32 or BF16 [rows, hidden_size]. It appears whole, when finish() returns.
// Memory  of a writer, a sample; of a reader, none but the mapping's pages, which the system takes
//         back where it needs them.
// Errors  name the file, what was expected and what was found.
// Threads one owner.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"

namespace cachalot::post {

enum class StateType { f32, bf16 };  // bf16: rounded to the nearest, to even

struct SampleRows {
  int64_t id = 0;
  int64_t rows = 0;
};

class TeacherStatesWriter {
 public:
  // The samples in the order in which add() will bring them; ids are distinct.
  static Result<TeacherStatesWriter> create(const std::string& path,
                                            std::span<const SampleRows> samples,
                                            int64_t hidden_size, StateType type);
  // The next sample's states [rows, hidden_size]. Another size is a caller bug.
  Status add(std::span<const float> states);
  // Errors  data_loss if samples are missing.
  Status finish();

 private:
  TeacherStatesWriter(std::unique_ptr<AtomicFile> file, formats::SafetensorsWriter writer,
                      StateType type)
      : file_(std::move(file)), writer_(std::move(writer)), type_(type) {}
  std::unique_ptr<AtomicFile> file_;
  formats::SafetensorsWriter writer_;
  StateType type_;
};

class TeacherStates {
 public:
  static Result<TeacherStates> open(const std::string& path);

  int64_t hidden_size() const { return hidden_size_; }
  // [rows, hidden_size] of a sample, F32 or BF16; valid as long as this.
  Result<tensor::TensorView> of(int64_t sample) const;

 private:
  struct Rows {
    int64_t first = 0;
    int64_t count = 0;
  };
  explicit TeacherStates(formats::SafetensorsFile file) : file_(std::move(file)) {}
  Status parse();

  formats::SafetensorsFile file_;
  const tensor::TensorView* states_ = nullptr;
  int64_t hidden_size_ = 0;
  std::unordered_map<int64_t, Rows> samples_;
};

}  // namespace cachalot::post
