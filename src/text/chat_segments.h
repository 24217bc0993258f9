// A prompt as a list of stretches that says which of them are control tokens and which are plain
// text, so that text typed by a user can never become a control token (reference/chat 1.6, safe
// mode).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cachalot::text {

struct PromptSegment {
  enum class Kind { control, text };
  Kind kind = Kind::text;
  std::string text;

  bool operator==(const PromptSegment&) const = default;
};

// Invariant: a control segment is exactly one control string; two text segments are never
// neighbours, so each stretch of text between control tokens is tokenized as a whole.
class PromptWriter {
 public:
  void control(std::string_view token);
  // Text from the conversation: never searched for control strings.
  void text(std::string_view data);
  // Text of the format itself, in which think and DSML strings are control tokens.
  void literal(std::string_view markup);

  const std::vector<PromptSegment>& segments() const { return segments_; }
  std::vector<PromptSegment> take() { return std::move(segments_); }

 private:
  std::vector<PromptSegment> segments_;
};

}  // namespace cachalot::text
