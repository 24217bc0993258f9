#include "data/text_documents.h"

#include <xxhash.h>

#include <algorithm>

#include "data/split_text.h"

namespace cachalot::data {

Result<TextDocuments> TextDocuments::open(std::vector<std::string> files,
                                          const TextOptions& options) {
  TextDocuments out(std::move(files), options);
  if (options.hold_out > 0) {
    CACHALOT_ASSIGN_OR_RETURN(out.few_documents_, out.has_few_documents());
  }
  return out;
}

// Reads as many as it takes to tell.
Result<bool> TextDocuments::has_few_documents() const {
  TextOptions as_they_are = options_;
  as_they_are.max_piece_bytes = 0;
  as_they_are.hold_out = 0;
  TextDocuments all(files_, as_they_are);
  for (int64_t count = 0; static_cast<double>(count) * options_.hold_out < 2; ++count) {
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<TextPiece> document, all.next());
    if (!document) return true;
  }
  return false;
}

Result<bool> TextDocuments::next_document() {
  while (reader_ || next_file_ < files_.size()) {
    if (!reader_) {
      CACHALOT_ASSIGN_OR_RETURN(DocumentReader reader,
                                DocumentReader::open(files_[next_file_++], options_.documents));
      reader_.emplace(std::move(reader));
    }
    CACHALOT_ASSIGN_OR_RETURN(const bool more, reader_->next(&document_));
    if (!more) {
      skipped_.add(reader_->skipped());
      reader_.reset();
    } else if (options_.hold_out > 0 &&
               !seen_.insert(XXH3_64bits(document_.data(), document_.size())).second) {
      ++num_repeated_;
    } else {
      return true;
    }
  }
  return false;
}

size_t TextDocuments::held_out_from() {
  const size_t size = document_.size();
  if (options_.hold_out <= 0) return size;
  if (few_documents_) {
    const size_t line = document_.find(
        '\n', static_cast<size_t>(static_cast<double>(size) * (1 - options_.hold_out)));
    return line == std::string::npos ? size : line + 1;
  }
  ++num_documents_;
  bytes_ += static_cast<double>(size);
  const bool is_due = static_cast<double>(num_held_out_ + 1) <=
                          2 * options_.hold_out * static_cast<double>(num_documents_) + 0.5 &&
                      held_out_bytes_ + static_cast<double>(size) / 2 <= options_.hold_out * bytes_;
  if (!is_due) return size;
  ++num_held_out_;
  held_out_bytes_ += static_cast<double>(size);
  return 0;
}

Result<std::optional<TextPiece>> TextDocuments::next() {
  while (pieces_.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(const bool more, next_document());
    if (!more) return std::optional<TextPiece>();
    const std::string_view all = document_;
    const size_t cut = held_out_from();
    const std::string_view trained = all.substr(0, cut);
    const size_t most = options_.max_piece_bytes > 0 ? static_cast<size_t>(options_.max_piece_bytes)
                                                     : std::max<size_t>(trained.size(), 4);
    for (const std::string_view piece : split_text(trained, most))
      pieces_.push_back({piece, false});
    if (cut < all.size()) pieces_.push_back({all.substr(cut), true});
    std::reverse(pieces_.begin(), pieces_.end());
  }
  const TextPiece piece = pieces_.back();
  pieces_.pop_back();
  return std::optional<TextPiece>(piece);
}

}  // namespace cachalot::data
