#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <functional>
#include <mutex>
#include <set>
#include <string>

#include "base/env.h"

namespace cachalot {
namespace {
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("cachalot",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%L %H:%M:%S %v");
    made->set_level(spdlog::level::from_str(env_log_level()));
    return made;
  }();
  return *instance;
}
}  // namespace

void log_debug(std::string_view message) { logger().debug("{}", message); }
void log_info(std::string_view message) { logger().info("{}", message); }
void log_warning(std::string_view message) { logger().warn("{}", message); }
void log_warning_once(std::string_view message) {
  static std::mutex mutex;
  static std::set<std::string, std::less<>> said;
  const std::lock_guard lock(mutex);
  if (said.emplace(message).second) log_warning(message);
}
void log_error(std::string_view message) { logger().error("{}", message); }

}  // namespace cachalot
