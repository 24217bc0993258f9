// Oniguruma, the engine inside PyPI tokenizers, as the oracle of the pre-tokenizer. Its header
// clashes with <regex.h>, which GoogleTest includes, so that it stays in the .cpp file.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cachalot::text {

class OnigurumaRegex {
 public:
  explicit OnigurumaRegex(std::string_view pattern);  // the pattern is valid
  OnigurumaRegex(OnigurumaRegex&&) noexcept;
  ~OnigurumaRegex();

  // The first match at or after `from`, as [begin, end).
  std::optional<std::pair<size_t, size_t>> search(std::string_view text, size_t from = 0);

  // Split with behaviour Isolated: matches are pieces, and so is what lies between them.
  void split(std::string_view text, std::vector<std::string>& pieces);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cachalot::text
