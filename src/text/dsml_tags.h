// Recognising DSML tags in streamed text, with the variants that models are seen to write
// (reference/chat 3.2).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "text/chat_message.h"

namespace cachalot::text {

struct TagMatch {
  enum class Kind {
    none,
    partial,
    full
  };  // partial: all the text there is agrees with a tag's beginning
  Kind kind = Kind::none;
  size_t length = 0;
  bool is_variant = false;
};

// One tag as it may be spelled: as the family writes it first, then the tolerated variant, empty if
// there is none.
struct TagSpellings {
  std::array<std::string, 2> spellings;

  TagMatch match(std::string_view text) const;
};

TagMatch match_literal(std::string_view text, std::string_view literal);

// The tags of one block. Open tags of invoke and parameter stand without their attributes. The
// plain spelling ("<tool_calls>") mixes with no other; a missing first bar ("<DSML｜invoke") is
// tolerated anywhere.
struct DsmlTags {
  TagSpellings calls_open, calls_close;
  TagSpellings invoke_open, invoke_close;
  TagSpellings parameter_open, parameter_close;

  static DsmlTags with_dsml(PromptFamily family);
  static DsmlTags plain(PromptFamily family);
};

// An open tag with its attributes: PREFIX name="..." [string="..."]>.
struct OpenTag {
  enum class Kind { none, partial, full };
  Kind kind = Kind::none;
  size_t length = 0;
  bool is_variant = false;
  std::string name;
  std::optional<bool> is_string;
};
// `text` begins at the tag. Names are bounded, not empty, without line breaks.
OpenTag parse_open_tag(std::string_view text, const TagSpellings& prefix);

}  // namespace cachalot::text
