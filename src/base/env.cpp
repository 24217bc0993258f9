#include "base/env.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

namespace cachalot {
namespace {

constexpr int64_t kMaxThreads = 1024;  // a mistyped number must not exhaust the machine
constexpr int64_t kMaxCacheGib = 1 << 20;
constexpr int64_t kDefaultCacheGib = 32;

std::string get(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

Status unknown_value(const char* name, std::string_view expected, std::string_view found) {
  return invalid_argument(fmt::format("{}: expected {}, found \"{}\"", name, expected, found));
}

Result<std::string> one_of(const char* name, const std::vector<std::string_view>& allowed,
                           const char* fallback) {
  const std::string value = get(name, fallback);
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return value;
  return unknown_value(name, fmt::format("one of {}", fmt::join(allowed, ", ")), value);
}

Result<int64_t> whole_number(const char* name, int64_t most, int64_t fallback) {
  const std::string value = get(name, "");
  if (value.empty()) return fallback;
  int64_t number = 0;
  const char* end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, number);
  if (error == std::errc() && stop == end && number >= 0 && number <= most) return number;
  return unknown_value(name, fmt::format("a whole number from 0 to {}", most), value);
}

Result<std::string> log_level() {
  return one_of("CACHALOT_LOG", {"debug", "info", "warning", "error"}, "info");
}
Result<int64_t> threads() { return whole_number("CACHALOT_THREADS", kMaxThreads, 0); }

Result<int64_t> cache_gib() {
  return whole_number("CACHALOT_CACHE_GIB", kMaxCacheGib, kDefaultCacheGib);
}

// A base directory of the XDG specification, which ignores relative paths, and ours in it.
std::string base_directory(const char* variable, const char* below_home) {
  const std::string base = get(variable, "");
  if (base.starts_with('/')) return base + "/cachalot";
  const std::string home = get("HOME", "");
  return home.empty() ? "" : home + below_home + "/cachalot";
}

template <typename T>
T or_default(const Result<T>& value, T fallback) {
  return value ? *value : fallback;
}

}  // namespace

const std::vector<EnvVariable>& env_variables() {
  static const std::vector<EnvVariable> variables = {
      {"CACHALOT_LOG", "log level: debug, info, warning or error (default info)"},
      {"CACHALOT_ISA", "force the CPU kernels: reference, avx2, avx512 or avx512bf16"},
      {"CACHALOT_THREADS", "number of threads (default: one per usable core)"},
      {"CACHALOT_CACHE_DIR", "where packed weights are kept (default: $XDG_CACHE_HOME/cachalot)"},
      {"CACHALOT_CACHE_GIB", "most GiB kept there, 0 to keep none (default 32)"},
      {"NO_COLOR", "not empty: no colours (so does TERM=dumb)"},
      {"XDG_CACHE_HOME", "the folder of caches (default: $HOME/.cache)"},
      {"XDG_STATE_HOME", "where chat keeps its input history (default: $HOME/.local/state)"},
  };
  return variables;
}

Status check_environment() {
  std::string errors;
  for (const Status& status : {log_level().error(), threads().error(), cache_gib().error()}) {
    if (status.ok()) continue;
    errors += (errors.empty() ? "" : "\n") + status.message();
  }
  return errors.empty() ? Status() : invalid_argument(errors);
}

std::string env_log_level() { return or_default(log_level(), std::string("info")); }
std::string env_isa() { return get("CACHALOT_ISA", ""); }
int env_threads() { return static_cast<int>(or_default(threads(), int64_t{0})); }
bool env_allows_color() { return get("NO_COLOR", "").empty() && get("TERM", "dumb") != "dumb"; }
std::string env_cache_dir() {
  const std::string directory = get("CACHALOT_CACHE_DIR", "");
  return directory.empty() ? base_directory("XDG_CACHE_HOME", "/.cache") : directory;
}
int64_t env_cache_gib() { return or_default(cache_gib(), kDefaultCacheGib); }
std::string env_state_dir() { return base_directory("XDG_STATE_HOME", "/.local/state"); }

}  // namespace cachalot
