// What a terminal may be shown: progress that wipes itself away, and text without control codes.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace cachalot::apps {

// Whether a file descriptor is a terminal; whether colours are welcome there (NO_COLOR, TERM=dumb).
bool is_terminal(int fd);
bool wants_color(int fd);

// Control characters of `text` made visible as U+FFFD, line breaks and tabs apart: a model must not
// steer the terminal. Multi-byte characters pass, C1 controls (U+0080..U+009F) excepted.
std::string printable(std::string_view text);

// `text` as one word of a shell's command line: quoted where it needs it.
std::string shell_word(const std::string& text);

// 1234567 as "1,234,567".
std::string grouped(int64_t number);

// "12 s", "3:20 min", "1:05 h".
std::string duration_text(double seconds);

// One line on standard error, rewritten in place, while a long prompt runs. Silent where standard
// error is no terminal.
class PrefillProgress {
 public:
  explicit PrefillProgress(std::string_view what = "prompt");
  ~PrefillProgress() { clear(); }
  PrefillProgress(const PrefillProgress&) = delete;
  PrefillProgress& operator=(const PrefillProgress&) = delete;
  void update(int64_t done_tokens, int64_t total_tokens);
  void clear();

 private:
  std::string what_;
  bool shows_;
  bool is_dirty_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace cachalot::apps
