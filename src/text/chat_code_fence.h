// Tells whether text stands inside a Markdown code fence, where markup is quoted and not meant.
#pragma once

#include <cstddef>
#include <string_view>

namespace cachalot::text {

// Fences of CommonMark: at most 3 spaces, then at least 3 backticks or tildes; closed by a line of
// at least as many of the same and nothing else. A backtick fence whose line holds another backtick
// is inline code. Text may come in any cut.
class CodeFence {
 public:
  void feed(std::string_view text);
  // What would stand next: inside from the third mark of a fence on, outside after the marks that
  // close it.
  bool inside() const;

 private:
  enum class Part { indent, other, fence, after };

  bool line_is_fence() const { return part_ >= Part::fence && length_ >= 3; }
  bool line_opens() const { return line_is_fence() && !(mark_ == '`' && is_inline_); }
  bool line_closes() const {
    return line_is_fence() && mark_ == open_mark_ && length_ >= open_length_ && !has_text_;
  }
  void end_line();

  // The fence that is open.
  char open_mark_ = 0;
  size_t open_length_ = 0;
  // The line being read.
  Part part_ = Part::indent;
  char mark_ = 0;
  size_t indent_ = 0;
  size_t length_ = 0;
  bool has_text_ = false;   // something but white space after the marks
  bool is_inline_ = false;  // a backtick after the marks
};

}  // namespace cachalot::text
