// Cuts a long text into pieces that a shuffled corpus can spread: a book in one document would fill
// a whole stretch of training.
// Cuts     at the last blank line that leaves a piece between half the limit and the limit, else at
//          the last line's end there, else between two characters. The pieces joined are the text,
//          byte for byte.
// Threads  pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace cachalot::data {

// Of the corpora that `data build`, `data tokenize` and `train --data` make.
inline constexpr int64_t kPieceBytes = int64_t{32} << 10;

// Views into text, each of 1 to max_bytes bytes; none for an empty text. max_bytes is at least 4, a
// caller bug otherwise.
std::vector<std::string_view> split_text(std::string_view text, size_t max_bytes);

}  // namespace cachalot::data
