// How alike two texts are: twice the characters in their matching blocks over the characters of
// both. The longest common run is matched first (the earliest in `a`, then in `b`), then what lies
// before it in both and what lies after.
// Source  reference/post-training 10.1, 15 (MRCR score): the ratio of Python's difflib over code
//         points, with its autojunk: where `b` has 200 characters or more, those that make up more
//         than 1 % of it (by more than one) start no match, but extend one.
// Text    UTF-8; a byte that is none counts as a character of its own.
// Cost    time up to the number of equal pairs of characters of a and b, times the depth of the
//         blocks; memory of a few times both.
// Threads  any.
#pragma once

#include <string_view>

namespace cachalot::post {

enum class Autojunk { off, on };
double match_ratio(std::string_view a, std::string_view b, Autojunk autojunk = Autojunk::on);

// 0 unless the response begins with the prefix; else match_ratio of response and answer without it.
double mrcr_score(std::string_view response, std::string_view answer, std::string_view prefix);

}  // namespace cachalot::post
