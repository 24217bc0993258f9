// What clients and key files send to our own parsers behind the HTTP library: targets, Host and
// Origin, keys. The first byte chooses.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "server/access.h"
#include "server/api_keys.h"
#include "server/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cachalot;
  using namespace cachalot::server;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 0) {
    const std::optional<Target> target = parse_target(text);
    if (!target) return 0;
    CACHALOT_CHECK(target->path == "*" || target->path.front() == '/');
    CACHALOT_CHECK(target->path.size() <= text.size() + 1);
  } else if (data[0] % 3 == 1) {
    const size_t middle = text.find('\n');
    const std::string_view host = text.substr(0, middle);
    const std::string_view origin =
        middle == std::string_view::npos ? std::string_view() : text.substr(middle + 1);
    AccessRules rules;
    // A name that nobody has told of is never a host, whatever follows as its port.
    constexpr std::string_view kUnknown = "evil.example";
    if (host == kUnknown || (host.starts_with(kUnknown) && host[kUnknown.size()] == ':'))
      CACHALOT_CHECK(!is_allowed_host(rules, host));
    (void)is_allowed_host(rules, host);
    (void)is_allowed_origin(rules, origin, host);
    if (const Result<std::string> normal = normal_origin(origin); normal)
      CACHALOT_CHECK(*normal_origin(*normal) == *normal);
  } else {
    Result<ApiKeys> keys = ApiKeys::parse(text, "keys");
    if (!keys) return 0;
    CACHALOT_CHECK(!keys->empty());
    const std::string_view first = text.substr(0, text.find_first_of(" \t\r\n"));
    (void)keys->find(first, text.substr(0, 64));
  }
  return 0;
}
