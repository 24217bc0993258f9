// A safetensors file of a golden set, whose layout is known: as golden_json.h, the first tensor
// that is not there, or of another type or size, is remembered as the error of the file, and what
// is read for it is zeros.
#pragma once

#include <string>
#include <vector>

#include "formats/safetensors.h"

namespace cachalot::verify {

class GoldenTensors {
 public:
  static Result<GoldenTensors> open(const std::string& path);

  const Status& status() const { return status_; }
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  const formats::SafetensorsFile& file() const { return file_; }
  // Elements of all axes together; `count` negative: any.
  std::vector<double> numbers(const std::string& name, int64_t count = -1);    // F32 or F64
  std::vector<float> floats(const std::string& name, int64_t count = -1);      // F32
  std::vector<int64_t> integers(const std::string& name, int64_t count = -1);  // I32 or U8
  // Ascending from 0 to `last`: where `count` parts of something begin, and the end.
  std::vector<int64_t> offsets(const std::string& name, int64_t count, int64_t last);
  void fail(const std::string& name, const std::string& expected, const std::string& found);

 private:
  explicit GoldenTensors(formats::SafetensorsFile file) : file_(std::move(file)) {}
  const tensor::TensorView* find(const std::string& name, int64_t count,
                                 std::initializer_list<tensor::DType> types);

  formats::SafetensorsFile file_;
  Status status_;
};

}  // namespace cachalot::verify
