#include "server/api_keys.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "server/ascii.h"

namespace cachalot::server {
namespace {

constexpr size_t kMinKeyBytes = 8;
constexpr std::string_view kBearer = "bearer ";

// Takes the next word off the line; empty at its end.
std::string_view take_word(std::string_view& line) {
  constexpr std::string_view kSpaces = " \t\r";
  const size_t start = std::min(line.find_first_not_of(kSpaces), line.size());
  const size_t end = std::min(line.find_first_of(kSpaces, start), line.size());
  const std::string_view word = line.substr(start, end - start);
  line.remove_prefix(end);
  return word;
}

// The time does not depend on where they differ.
bool is_same(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  return difference == 0;
}

struct KeyLine {
  std::string_view secret;
  std::string name;
  KeyLimits limits;
  bool is_admin = false;
};

Result<KeyLine> parse_line(std::string_view line, size_t number, std::string_view origin) {
  const auto wrong = [&](std::string_view expected, std::string_view found) {
    return invalid_argument(
        fmt::format("{}:{}: expected {}, found {}", origin, number, expected, found));
  };
  KeyLine key;
  key.secret = take_word(line);
  const auto is_printable = [](char c) { return c > 0x20 && c < 0x7f; };
  if (key.secret.size() < kMinKeyBytes ||
      !std::all_of(key.secret.begin(), key.secret.end(), is_printable)) {
    return wrong(fmt::format("a key of {} or more printable characters", kMinKeyBytes),
                 fmt::format("one of {} bytes", key.secret.size()));
  }
  key.name = fmt::format("key{}", number);
  for (std::string_view word; !(word = take_word(line)).empty();) {
    if (word == "admin") {
      key.is_admin = true;
      continue;
    }
    const size_t equals = std::min(word.find('='), word.size());
    const std::string_view field = word.substr(0, equals);
    const std::string_view value = word.substr(std::min(equals + 1, word.size()));
    if (field == "name" && !value.empty()) {
      key.name = value;
      continue;
    }
    int64_t* const limit = field == "requests"            ? &key.limits.requests
                           : field == "tokens_per_minute" ? &key.limits.tokens_per_minute
                                                          : nullptr;
    if (limit == nullptr)
      return wrong("name=, requests=, tokens_per_minute= or admin", fmt::format("\"{}\"", word));
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), *limit);
    if (parsed.ec != std::errc() || parsed.ptr != value.data() + value.size() || *limit < 1)
      return wrong(fmt::format("{}= and a number from 1 on", field), fmt::format("\"{}\"", word));
  }
  return key;
}

}  // namespace

ApiKey::ApiKey(std::string name, KeyLimits limits, bool is_admin)
    : name_(std::move(name)),
      limits_(limits),
      is_admin_(is_admin),
      allowance_(static_cast<double>(limits.tokens_per_minute)) {}

std::optional<ApiKey::Refusal> ApiKey::refusal(double now_s) {
  if (limits_.requests > 0 && num_running_ >= limits_.requests) {
    return Refusal{fmt::format("requests at once: expected at most {} for this key, found one more",
                               limits_.requests),
                   1};
  }
  if (limits_.tokens_per_minute == 0) return std::nullopt;
  const auto most = static_cast<double>(limits_.tokens_per_minute);
  const double per_second = most / 60;
  if (refilled_s_ > 0)
    allowance_ = std::min(most, allowance_ + per_second * std::max(0.0, now_s - refilled_s_));
  refilled_s_ = now_s;
  if (allowance_ > 0) return std::nullopt;
  return Refusal{fmt::format("tokens per minute: expected at most {} for this key, which are spent",
                             limits_.tokens_per_minute),
                 1 + static_cast<int64_t>(std::ceil(-allowance_ / per_second))};
}

Result<ApiKeys> ApiKeys::load(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, size_t{1} << 20));
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && (status.st_mode & 077) != 0) {
    log_warning(
        fmt::format("{}: others on this machine may read these keys; chmod 600 keeps them", path));
  }
  return parse(text, path);
}

Result<ApiKeys> ApiKeys::parse(std::string_view text, std::string_view origin) {
  ApiKeys keys;
  text = without_byte_order_mark(text);
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    std::string_view rest = line;
    const std::string_view first = take_word(rest);
    if (first.empty() || first[0] == '#') continue;
    CACHALOT_ASSIGN_OR_RETURN(KeyLine key, parse_line(line, number, origin));
    std::string sum = sha256_hex(key.secret);
    if (std::find(keys.sums_.begin(), keys.sums_.end(), sum) != keys.sums_.end()) {
      return invalid_argument(
          fmt::format("{}:{}: expected each key once, found one again", origin, number));
    }
    keys.sums_.push_back(std::move(sum));
    keys.keys_.emplace_back(std::move(key.name), key.limits, key.is_admin);
  }
  if (keys.empty()) {
    return invalid_argument(
        fmt::format("{}: expected at least one key, found none: nobody could call", origin));
  }
  return keys;
}

ApiKey* ApiKeys::find(std::string_view secret) {
  if (secret.empty()) return nullptr;
  const std::string sum = sha256_hex(secret);
  ApiKey* found = nullptr;
  for (size_t i = 0; i < sums_.size(); ++i) {
    if (is_same(sums_[i], sum)) found = &keys_[i];
  }
  return found;
}

ApiKey* ApiKeys::find(std::string_view authorization, std::string_view x_api_key) {
  if (equals_ignoring_case(authorization.substr(0, kBearer.size()), kBearer))
    authorization.remove_prefix(kBearer.size());
  ApiKey* const found = find(take_word(authorization));
  return found != nullptr ? found : find(take_word(x_api_key));
}

}  // namespace cachalot::server
