// The hash of all of a file's bytes: what a source whose format has no checksum is known again by.
// Kept     of a file of min_bytes or more, beside its path, size and times, in a bounded folder: a
//          later look at the same file reads nothing of it. Where that cannot be done the file is
//          read each time, without a word.
// Threads  safe; processes share the folder.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"

namespace cachalot::data {

struct ContentHashOptions {
  std::string directory;                  // empty: nothing is kept
  int64_t min_bytes = int64_t{64} << 20;  // a smaller file is read as fast as looked up

  static ContentHashOptions from_environment();
};

uint64_t content_hash(const MappedFile& file,
                      const ContentHashOptions& options = ContentHashOptions::from_environment());

}  // namespace cachalot::data
