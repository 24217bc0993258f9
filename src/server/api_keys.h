// The keys of --api-keys FILE and what each may do.
//
// File   one key a line, then what it may do; a line that begins with # is a remark:
//            sk-4f9c...  name=laptop requests=4 tokens_per_minute=60000 admin
//        name (in metrics and logs; default: key1, key2, ... by line), requests (at once; default:
//        no limit), tokens_per_minute (prompts and answers together; default: no limit), admin (may
//        call /admin). A key is 8 or more printable characters without a space.
// Held   as SHA-256 sums, which are compared without a branch on what they hold.
// Limits An allowance of tokens_per_minute that refills steadily: a prompt is taken from it when a
//        call begins, the answer when it ends, so that it may fall below nothing; calls wait until
//        it is above.
// Threads  one: the server's I/O thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::server {

struct KeyLimits {
  int64_t requests = 0;           // 0: none
  int64_t tokens_per_minute = 0;  // 0: none
};

class ApiKey {
 public:
  ApiKey(std::string name, KeyLimits limits, bool is_admin);

  const std::string& name() const { return name_; }
  bool is_admin() const { return is_admin_; }

  // Seconds to wait before a call may begin, and why; nothing: it may now. `now_s`: any clock that
  // only goes forward.
  struct Refusal {
    std::string why;
    int64_t retry_after_s;
  };
  std::optional<Refusal> refusal(double now_s);
  void begin() { ++num_running_; }
  void spend(int64_t tokens) { allowance_ -= static_cast<double>(tokens); }
  void end() { --num_running_; }

 private:
  std::string name_;
  KeyLimits limits_;
  bool is_admin_;
  int64_t num_running_ = 0;
  double allowance_;
  double refilled_s_ = 0;
};

class ApiKeys {
 public:
  static Result<ApiKeys> load(const std::string& path);
  // `origin` names the text in errors, which never show a key.
  static Result<ApiKeys> parse(std::string_view text, std::string_view origin);

  bool empty() const { return keys_.empty(); }
  // The key that one of the headers presents ("Bearer KEY" or "KEY"; x-api-key); null: none does.
  // Valid as long as this is.
  ApiKey* find(std::string_view authorization, std::string_view x_api_key);

 private:
  ApiKey* find(std::string_view secret);

  std::vector<std::string> sums_;  // of keys_
  std::vector<ApiKey> keys_;
};

}  // namespace cachalot::server
