// Lines into a zstd file that appears whole.
// Numerics  fixed level, one thread: the same lines give the same bytes.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

struct ZSTD_CCtx_s;

namespace cachalot::data {

class JsonlWriter {
 public:
  static Result<JsonlWriter> create(const std::string& path);
  Status write(std::string_view line);  // without its line break
  Status finish();
  int64_t text_bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(ZSTD_CCtx_s* context) const;
  };
  explicit JsonlWriter(AtomicFile file);
  Status compress(std::string_view text, bool last);
  AtomicFile file_;
  std::unique_ptr<ZSTD_CCtx_s, Free> context_;
  std::vector<char> buffer_;
  int64_t bytes_ = 0;
};

}  // namespace cachalot::data
