// The DeepSeek-V3/V4 pre-tokenizer: where text is cut before BPE.
// Source   reference/chat 1.2: three regular-expression splits in sequence, each working inside the
//            pieces of the one before:
//            1  \p{N}{1,3}
//            2  [U+4E00-U+9FA5 U+3040-U+309F U+30A0-U+30FF]+
//            3  punctuation + ASCII letters | letters with one leading character | punctuation |
//               line ends | white space
//          One pass does all three: a digit or a character of pattern 2's ranges ends the piece
//          that pattern 3 sees.
// Unicode  16.0, see unicode_tables.h.
// Bytes that are not UTF-8 count as one unassigned character each, so that any byte string can be
// cut.
#pragma once

#include <string_view>

namespace cachalot::text {

// The end of the first piece of [begin, end). Needs begin < end; the result is in (begin, end].
// Where a piece ends depends on nothing before it, so repeated calls cut a whole text. Cost is
// linear over repeated calls.
const char* next_piece(const char* begin, const char* end);

// Patterns 1 to 3 as tokenizer.json spells them.
inline constexpr std::string_view kSplitPatterns[3] = {
    "\\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
};

}  // namespace cachalot::text
