// Lines from a person: editing, history across runs and completion of commands on a terminal
// (libedit), plain lines elsewhere.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cachalot::apps {

struct InputLine {
  enum class Kind { text, interrupted, end };
  Kind kind = Kind::end;
  std::string text;  // without its line break; may hold breaks where several lines were pasted
};

class LineEditor {
 public:
  // words: completed by Tab at the beginning of a line. history_path: empty keeps none. Needs
  // watch_interrupts().
  LineEditor(std::string history_path, std::vector<std::string> words);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // Whether a person types: prompts are shown and lines edited.
  bool is_interactive() const { return terminal_ != nullptr; }
  InputLine read(std::string_view prompt);

 private:
  class Terminal;
  std::unique_ptr<Terminal> terminal_;
};

}  // namespace cachalot::apps
