// Finds one member of a JSON object without judging what stands beside it.
// Corpora hold what writers put there: NaN, Infinity, half a surrogate pair. None of it matters to
// the member that is wanted, so values beside it only have to end where they should: brackets
// match, strings close, commas and colons stand between.
// Threads  pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace cachalot::data {

struct JsonScan {
  enum class Outcome {
    complete,   // the object ends before byte `end`
    cut,        // the text ends inside it; all up to there may stand in an object
    malformed,  // byte `end` is none that may stand there
  };
  Outcome outcome = Outcome::cut;
  size_t end = 0;
  std::string_view expected;               // at `end`, where the outcome is not complete
  std::optional<std::string_view> member;  // JSON text of its value; of several the last
};

// `text` begins with '{'. Any bytes are safe to give. Linear in the object's length.
JsonScan scan_json_object(std::string_view text, std::string_view member);

}  // namespace cachalot::data
