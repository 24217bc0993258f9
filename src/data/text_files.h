// The files of text that a person means: files, folders and patterns.
// Files     each as it is named, whatever it holds.
// Folders   every file below, by path; hidden ones, files that are no text (text_kind.h, by
//           their first bytes, decompressed), runs of `train` (folders with a run.toml) and corpora
//           of `data tokenize` are passed over. So is JSON whose first document has no text (a
//           package.json among pages), where what a file is decides its content and no bad lines
//           are skipped; a fault further on is the reader's to tell.
// Patterns  what names no file or folder and has one of * ? [: every file below the folder before
//           the first of them whose path, or a folder of whose path, fits. ** also crosses folders.
// Errors    not_found: a name without a file, a folder or pattern without a text (with the first
//           reason); io_error.
// Threads   pure but for the file system.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/document_reader.h"

namespace cachalot::data {

struct TextFiles {
  std::vector<std::string> paths;  // each once, in the order of the arguments
  int64_t num_passed_over = 0;     // of the folders' files: no text
  // Why, of the first kMaxReasons that are JSON, each naming path, line and byte.
  static constexpr size_t kMaxReasons = 5;
  std::vector<std::string> reasons;
};

// options: how the files will be read.
Result<TextFiles> find_text_files(std::span<const std::string> arguments,
                                  const DocumentOptions& options);

}  // namespace cachalot::data
