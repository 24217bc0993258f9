#include "apps/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/env.h"

namespace cachalot::apps {
std::string duration_text(double seconds) {
  if (!(seconds < 360000)) return "> 100 h";
  const auto whole = static_cast<int64_t>(std::ceil(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02} min", whole / 60, whole % 60);
  return fmt::format("{}:{:02} h", whole / 3600, whole % 3600 / 60);
}

bool is_terminal(int fd) { return ::isatty(fd) != 0; }
bool wants_color(int fd) { return is_terminal(fd) && env_allows_color(); }

std::string printable(std::string_view text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 =
        byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (is_c1) ++i;
    if (is_c1 || (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F) {
      out += kReplacement;
    } else {
      out += static_cast<char>(byte);
    }
  }
  return out;
}

std::string shell_word(const std::string& text) {
  const bool is_plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("_-./:+@%").find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (is_plain) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  const ptrdiff_t first = number < 0 ? 1 : 0;
  for (ptrdiff_t at = static_cast<ptrdiff_t>(digits.size()) - 3; at > first; at -= 3)
    digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

PrefillProgress::PrefillProgress(std::string_view what)
    : what_(what), shows_(is_terminal(STDERR_FILENO)), start_(std::chrono::steady_clock::now()) {}

void PrefillProgress::update(int64_t done_tokens, int64_t total_tokens) {
  if (!shows_ || done_tokens <= 0 || total_tokens <= 0) return;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  // What is over in a moment needs no line about it.
  const double left =
      seconds * static_cast<double>(total_tokens - done_tokens) / static_cast<double>(done_tokens);
  if (!is_dirty_ && seconds + left < 1.0) return;
  std::fprintf(
      stderr, "\r\033[K%s",
      fmt::format("{}: {} of {} tokens ({:.0f} %), {:.0f}/s, {} left", what_, grouped(done_tokens),
                  grouped(total_tokens),
                  100.0 * static_cast<double>(done_tokens) / static_cast<double>(total_tokens),
                  static_cast<double>(done_tokens) / std::max(seconds, 1e-9), duration_text(left))
          .c_str());
  std::fflush(stderr);
  is_dirty_ = true;
}

void PrefillProgress::clear() {
  if (is_dirty_) std::fputs("\r\033[K", stderr);
  is_dirty_ = false;
}

}  // namespace cachalot::apps
