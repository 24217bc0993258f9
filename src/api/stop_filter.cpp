#include "api/stop_filter.h"

#include <algorithm>

namespace cachalot::api {

void StopFilter::push(std::string_view text, std::string& out) {
  if (is_stopped_) return;
  if (stops_.empty()) {
    out += text;
    return;
  }
  held_ += text;
  // The one that begins first; of those that begin together, the one named first.
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at >= first) continue;
    first = at;
    stopped_by_ = stop;
  }
  if (first != std::string::npos) {
    is_stopped_ = true;
    out.append(held_, 0, first);
    if (keeps_stop_) out += stopped_by_;
    held_.clear();
    return;
  }
  size_t kept = 0;
  for (const std::string& stop : stops_) {
    for (size_t size = std::min(stop.size() - 1, held_.size()); size > kept; --size) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, size))) kept = size;
    }
  }
  out.append(held_, 0, held_.size() - kept);
  held_.erase(0, held_.size() - kept);
}

void StopFilter::finish(std::string& out) {
  out += held_;
  held_.clear();
}

}  // namespace cachalot::api
