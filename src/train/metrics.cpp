#include "train/metrics.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>

#include "base/json.h"
#include "base/python_json.h"

namespace cachalot::train {
namespace {

std::string to_line(const MetricsLine& line) {
  json::object out;
  out["step"] = line.step;
  if (line.event.empty()) {
    out["tokens"] = line.tokens;
    for (const auto& [name, value] : line.values)
      out[name] = std::isfinite(value) ? json::value(value) : json::value(nullptr);
  } else {
    out["event"] = line.event;
    out["detail"] = line.detail;
  }
  return python_json(out) + "\n";
}

Result<MetricsLine> from_line(std::string_view text, const std::string& origin) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value document, parse_json(text, origin, 4));
  const json::object* object = document.if_object();
  const json::value* step = object == nullptr ? nullptr : object->if_contains("step");
  if (step == nullptr || !step->is_int64())
    return data_loss(
        fmt::format("{}: expected an object with a whole \"step\", found {:.60}", origin, text));
  MetricsLine line;
  for (const auto& [key, value] : *object) {
    const std::string name(key);
    if (name == "step") {
      line.step = value.get_int64();
    } else if (name == "tokens" && value.is_int64()) {
      line.tokens = value.get_int64();
    } else if (value.is_string()) {
      (name == "event" ? line.event : line.detail) = value.get_string();
    } else if (value.is_number()) {
      line.values.emplace_back(name, value.to_number<double>());
    } else if (value.is_null()) {
      line.values.emplace_back(name, std::nan(""));
    } else {
      return data_loss(fmt::format("{}: {}: expected a number, null or string, found {}", origin,
                                   name, json_kind_name(value)));
    }
  }
  return line;
}

Result<Fd> open_for_append(const std::string& path) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (fd.get() < 0) return io_error(fmt::format("{}: open: {}", path, std::strerror(errno)));
  return fd;
}

// The file again with the lines that `keeps` wants.
Status rewrite(const std::string& path, const std::function<bool(const MetricsLine&)>& keeps) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<MetricsLine> lines, read_metrics(path));
  std::string text;
  for (const MetricsLine& line : lines) {
    if (keeps(line)) text += to_line(line);
  }
  return write_file_atomically(path, text);
}

}  // namespace

Result<std::vector<MetricsLine>> read_metrics(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  std::vector<MetricsLine> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn
    CACHALOT_ASSIGN_OR_RETURN(MetricsLine line,
                              from_line(std::string_view(text).substr(begin, end - begin),
                                        fmt::format("{}:{}", path, lines.size() + 1)));
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

Result<MetricsLog> MetricsLog::open(const std::string& path, int64_t last_step) {
  if (std::filesystem::exists(path)) {
    CACHALOT_RETURN_IF_ERROR(
        rewrite(path, [&](const MetricsLine& line) { return line.step <= last_step; }));
  }
  CACHALOT_ASSIGN_OR_RETURN(Fd fd, open_for_append(path));
  return MetricsLog(path, std::move(fd));
}

Status MetricsLog::rewind(int64_t last_step) {
  CACHALOT_RETURN_IF_ERROR(rewrite(path_, [&](const MetricsLine& line) {
    return !line.event.empty() || line.step <= last_step;
  }));
  CACHALOT_ASSIGN_OR_RETURN(fd_, open_for_append(path_));
  return {};
}

Status MetricsLog::append(const std::string& line) {
  for (size_t done = 0; done < line.size();) {
    const ssize_t count = ::write(fd_.get(), line.data() + done, line.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error(fmt::format("{}: write: {}", path_, std::strerror(errno)));
    done += static_cast<size_t>(count);
  }
  return {};
}

Status MetricsLog::write(int64_t step, int64_t tokens, const MetricValues& values) {
  return append(to_line({step, tokens, values, {}, {}}));
}

Status MetricsLog::write_event(int64_t step, std::string_view event, std::string_view detail) {
  return append(to_line({step, 0, {}, std::string(event), std::string(detail)}));
}

}  // namespace cachalot::train
