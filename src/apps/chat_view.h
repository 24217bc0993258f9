// How a chat looks: the answer as it streams, thinking dim and apart, tool calls named, notes about
// the program itself. Without a terminal: the same as plain lines, with no escape codes, and the
// notes on standard error.
#pragma once

#include <string>
#include <string_view>

#include "text/completion_parser.h"

namespace cachalot::apps {

class ChatView {
 public:
  ChatView();

  std::string prompt() const;  // of the line editor
  std::string continuation() const;

  void begin_answer();
  void show(const text::CompletionEvent& event);
  // Ends the answer's last line; note: said after it, may be empty.
  void end_answer(std::string_view note);

  void note(std::string_view text);  // a remark, one or more lines
  void error(std::string_view text);
  void heading(std::string_view text);
  void text(std::string_view text);

 private:
  enum class Part { none, thinking, answer, call };
  void enter(Part part);
  void write(std::string_view text);
  void style(const char* code);
  void finish_line();

  bool is_terminal_;
  bool has_color_;
  Part part_ = Part::none;
  bool at_line_start_ = true;
};

}  // namespace cachalot::apps
