// The documents of files of text, cut and parted into what is trained on and what is held out.
// Cutting   as split_text.h; the pieces of a document follow each other.
// Hold-out  of `hold_out` > 0: whole documents, spread over all, up to about that share of the
//           bytes and twice that share of the documents, never cut. Of few documents (fewer than
//           two would be held out) each gives its last bytes instead, from a line's beginning. A
//           text that has come before is left out, since nothing that was trained on tests
//           anything.
// Exact     a function of the files, their order and the options.
// Memory    a document and 8 bytes for each one before it.
// Errors    the reader's.
// Threads   one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/status.h"
#include "data/document_reader.h"

namespace cachalot::data {

struct TextOptions {
  DocumentOptions documents = {};
  int64_t max_piece_bytes = 0;  // 0: documents stay whole; else at least 4
  double hold_out = 0;          // share of the text, below 1
};

struct TextPiece {
  std::string_view text;  // valid until the next call
  bool held_out = false;
};

class TextDocuments {
 public:
  static Result<TextDocuments> open(std::vector<std::string> files, const TextOptions& options);

  // Nothing at the end.
  Result<std::optional<TextPiece>> next();
  int64_t num_repeated() const { return num_repeated_; }    // left out so far
  const SkippedLines& skipped() const { return skipped_; }  // in the files that are read

 private:
  TextDocuments(std::vector<std::string> files, const TextOptions& options)
      : files_(std::move(files)), options_(options) {}
  Result<bool> next_document();
  Result<bool> has_few_documents() const;
  // Bytes of the document that are trained on.
  size_t held_out_from();

  std::vector<std::string> files_;
  TextOptions options_;
  bool few_documents_ = false;
  size_t next_file_ = 0;
  std::optional<DocumentReader> reader_;
  std::string document_;
  std::vector<TextPiece> pieces_;  // of the document, those left to give last first
  std::unordered_set<uint64_t> seen_;
  int64_t num_repeated_ = 0;
  SkippedLines skipped_;
  int64_t num_documents_ = 0;
  int64_t num_held_out_ = 0;
  double bytes_ = 0;
  double held_out_bytes_ = 0;
};

}  // namespace cachalot::data
