#include "apps/line_editor.h"

#include <errno.h>
#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <utility>

#include "apps/interrupts.h"
#include "apps/terminal.h"

namespace cachalot::apps {
namespace {

constexpr int kHistoryLines = 1000;
constexpr wchar_t kLineBreakSign =
    L'\u21B5';  // stands for a line break while a pasted text is edited
constexpr std::string_view kLineBreakUtf8 = "\u21B5";
constexpr std::string_view kPasteBegin = "\033[200~";
constexpr std::string_view kPasteEnd = "\033[201~";
// a key's sequence arrives at once, an Escape alone does not
constexpr int kEscapeMilliseconds = 30;

// A byte from standard input; -1 at an interrupt or an error, 0 at the end.
int read_byte(char* byte) {
  while (true) {
    const ssize_t count = ::read(STDIN_FILENO, byte, 1);
    if (count >= 0) return static_cast<int>(count);
    if (errno != EINTR || interrupts() > 0) return -1;
  }
}

bool has_input(int milliseconds) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  return ::poll(&input, 1, milliseconds) > 0;
}

InputLine read_plain() {
  InputLine line;
  char byte = 0;
  int got = 0;
  while ((got = read_byte(&byte)) == 1 && byte != '\n') line.text += byte;
  if (got == 1 || (got == 0 && !line.text.empty())) {
    line.kind = InputLine::Kind::text;
    if (line.text.ends_with('\r')) line.text.pop_back();
  } else if (got < 0 && interrupts() > 0) {
    line.kind = InputLine::Kind::interrupted;
  }
  return line;
}

}  // namespace

class LineEditor::Terminal {
 public:
  Terminal(std::string history_path, std::vector<std::string> words)
      : history_path_(std::move(history_path)), words_(std::move(words)) {
    // Keys are characters of the locale; where none is set, UTF-8 is the better guess.
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1)
      std::setlocale(LC_CTYPE, "C.UTF-8");
    edit_ = ::el_init("cachalot", stdin, stdout, stderr);
    history_ = ::history_init();
    HistEvent event;
    ::history(history_, &event, H_SETSIZE, kHistoryLines);
    ::history(history_, &event, H_SETUNIQUE, 1);
    if (!history_path_.empty()) ::history(history_, &event, H_LOAD, history_path_.c_str());
    ::el_set(edit_, EL_CLIENTDATA, this);
    ::el_set(edit_, EL_PROMPT_ESC, &Terminal::give_prompt, '\1');
    ::el_set(edit_, EL_EDITOR, "emacs");
    ::el_set(edit_, EL_SIGNAL, 0);
    ::el_set(edit_, EL_GETCFN, &Terminal::get_character);
    ::el_set(edit_, EL_HIST, history, history_);
    ::el_set(edit_, EL_ADDFN, "complete-command", "complete a command", &Terminal::complete);
    ::el_set(edit_, EL_BIND, "\t", "complete-command", nullptr);
    ::el_set(edit_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    ::el_set(edit_, EL_BIND, "\033[3~", "ed-delete-next-char", nullptr);
    ::el_set(edit_, EL_BIND, "\033[1;5C", "em-next-word", nullptr);
    ::el_set(edit_, EL_BIND, "\033[1;5D", "ed-prev-word", nullptr);
  }
  ~Terminal() {
    ::history_end(history_);
    ::el_end(edit_);
  }

  InputLine read(std::string_view prompt) {
    prompt_ = prompt;
    pending_.clear();
    ::el_resize(edit_);
    paste_mode(true);
    int count = 0;
    const char* typed = ::el_gets(edit_, &count);
    paste_mode(false);
    if (interrupts() > 0) {
      ::el_set(edit_, EL_UNBUFFERED, 0);
      ::el_reset(edit_);
      return {InputLine::Kind::interrupted, {}};
    }
    if (typed == nullptr || count <= 0) return {InputLine::Kind::end, {}};
    std::string text(typed, static_cast<size_t>(count));
    if (text.ends_with('\n')) text.pop_back();
    remember(text);
    for (size_t at = 0; (at = text.find(kLineBreakUtf8, at)) != std::string::npos;)
      text.replace(at, kLineBreakUtf8.size(), "\n");
    return {InputLine::Kind::text, std::move(text)};
  }

 private:
  static Terminal& self(EditLine* edit) {
    void* data = nullptr;
    ::el_get(edit, EL_CLIENTDATA, &data);
    return *static_cast<Terminal*>(data);
  }

  static char* give_prompt(EditLine* edit) { return self(edit).prompt_.data(); }

  // libedit's own reader retries after a signal; this one ends the line. It also turns the line
  // breaks of a pasted text into signs, so that the text is one message.
  static int get_character(EditLine* edit, wchar_t* out) {
    std::deque<wchar_t>& pending = self(edit).pending_;
    if (pending.empty()) {
      const int got = self(edit).fill();
      if (got <= 0) return got;
    }
    *out = pending.front();
    pending.pop_front();
    return 1;
  }

  int fill() {
    char byte = 0;
    if (const int got = read_byte(&byte); got <= 0) return got;
    if (byte == 3) {  // a terminal that does not turn Ctrl-C into a signal
      ::raise(SIGINT);
      errno = EINTR;
      return -1;
    }
    if (byte == '\033') return fill_escape();
    return fill_character(byte, false);
  }

  // An Escape, or the paste that its sequence announces.
  int fill_escape() {
    std::string sequence = "\033";
    while (sequence.size() < kPasteBegin.size() && kPasteBegin.starts_with(sequence) &&
           has_input(kEscapeMilliseconds)) {
      char byte = 0;
      if (read_byte(&byte) <= 0) break;
      sequence += byte;
    }
    if (sequence != kPasteBegin) {
      for (const char c : sequence) pending_.push_back(static_cast<unsigned char>(c));
      return 1;
    }
    return fill_paste();
  }

  int fill_paste() {
    std::string tail;  // the bytes that may begin the end mark
    char byte = 0;
    int got = 0;
    while ((got = read_byte(&byte)) == 1) {
      tail += byte;
      if (tail == kPasteEnd) break;
      if (kPasteEnd.starts_with(tail)) continue;
      const std::string bytes = std::exchange(tail, {});
      if (bytes.size() == 1) {
        if (fill_character(byte, true) <= 0) return -1;
      } else {
        for (const char c : bytes.substr(1))
          pending_.push_back(static_cast<unsigned char>(c));  // ESC itself is dropped
      }
    }
    if (got <= 0) return got;
    while (!pending_.empty() && pending_.back() == kLineBreakSign) pending_.pop_back();
    if (pending_.empty()) return fill();
    return 1;
  }

  // The rest of a UTF-8 character. A wrong one becomes U+FFFD.
  int fill_character(char first, bool pasted) {
    const auto lead = static_cast<unsigned char>(first);
    const int extra = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    wchar_t code = extra == 0 ? lead : lead & (0x3F >> extra);
    bool ok = lead < 0x80 || lead >= 0xC0;
    for (int i = 0; i < extra; ++i) {
      char byte = 0;
      if (const int got = read_byte(&byte); got <= 0) return got;
      ok = ok && (byte & 0xC0) == 0x80;
      code = (code << 6) | (byte & 0x3F);
    }
    if (!ok || code > 0x10FFFF) code = 0xFFFD;
    if (pasted) {
      const bool after_return = was_return_ && code == L'\n';
      was_return_ = code == L'\r';
      if (after_return) return 1;
      if (code == L'\r' || code == L'\n') code = kLineBreakSign;
      if (code < 0x20) code = L' ';
    }
    pending_.push_back(code);
    return 1;
  }

  static unsigned char complete(EditLine* edit, int) {
    const LineInfo* line = ::el_line(edit);
    const std::string_view typed(line->buffer, static_cast<size_t>(line->cursor - line->buffer));
    if (!typed.starts_with('/')) return CC_ERROR;
    std::vector<std::string_view> fitting;
    for (const std::string& word : self(edit).words_) {
      if (std::string_view(word).starts_with(typed)) fitting.push_back(word);
    }
    if (fitting.empty()) return CC_ERROR;
    if (fitting.size() == 1) {
      const std::string rest = std::string(fitting[0].substr(typed.size())) + " ";
      return ::el_insertstr(edit, rest.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
    }
    std::string list = "\n";
    for (const std::string_view word : fitting) list += std::string(word) + "  ";
    std::printf("%s\n", list.c_str());
    std::fflush(stdout);
    return CC_REDISPLAY;
  }

  void remember(const std::string& text) {
    if (text.find_first_not_of(" \t") == std::string::npos) return;
    HistEvent event;
    ::history(history_, &event, H_ENTER, text.c_str());
    if (history_path_.empty()) return;
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(history_path_).parent_path(),
                                        ignored);
    ::history(history_, &event, H_SAVE, history_path_.c_str());  // readable by its owner only
  }

  static void paste_mode(bool on) {
    std::fputs(on ? "\033[?2004h" : "\033[?2004l", stdout);
    std::fflush(stdout);
  }

  std::string history_path_;
  std::vector<std::string> words_;
  EditLine* edit_ = nullptr;
  History* history_ = nullptr;
  std::string prompt_;
  std::deque<wchar_t> pending_;  // characters read ahead
  bool was_return_ = false;
};

LineEditor::LineEditor(std::string history_path, std::vector<std::string> words) {
  if (is_terminal(STDIN_FILENO) && is_terminal(STDOUT_FILENO)) {
    terminal_ = std::make_unique<Terminal>(std::move(history_path), std::move(words));
  }
}
LineEditor::~LineEditor() = default;

InputLine LineEditor::read(std::string_view prompt) {
  return terminal_ != nullptr ? terminal_->read(prompt) : read_plain();
}

}  // namespace cachalot::apps
