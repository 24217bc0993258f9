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

Status wrong(const std::string& origin, std::string_view key, std::string_view expected,
             const json::value* found) {
  return data_loss(fmt::format("{}: {}: expected {}, found {}", origin, key, expected,
                               found == nullptr ? "none" : python_json(*found).substr(0, 60)));
}

Status read_count(const json::object& object, const char* key, const std::string& origin,
                  int64_t* out) {
  const json::value* found = object.if_contains(key);
  if (found == nullptr || !found->is_int64() || found->get_int64() < 0)
    return wrong(origin, key, "a whole number that is not negative", found);
  *out = found->get_int64();
  return {};
}

Status read_text(const json::object& object, const char* key, const std::string& origin,
                 std::string* out) {
  const json::value* found = object.if_contains(key);
  if (found == nullptr || !found->is_string()) return wrong(origin, key, "a string", found);
  *out = found->get_string();
  return {};
}

Status read_event(const json::object& object, const std::string& origin, MetricsLine* line) {
  CACHALOT_RETURN_IF_ERROR(read_text(object, "event", origin, &line->event));
  CACHALOT_RETURN_IF_ERROR(read_text(object, "detail", origin, &line->detail));
  if (line->event.empty()) return wrong(origin, "event", "a name", object.if_contains("event"));
  for (const auto& [key, value] : object) {
    if (key != "step" && key != "event" && key != "detail")
      return wrong(origin, key, "none in an event", &value);
  }
  return {};
}

Status read_values(const json::object& object, const std::string& origin, MetricsLine* line) {
  CACHALOT_RETURN_IF_ERROR(read_count(object, "tokens", origin, &line->tokens));
  for (const auto& [key, value] : object) {
    if (key == "step" || key == "tokens") continue;
    double number = std::nan("");
    if (value.is_number()) number = value.to_number<double>();
    // A number beyond a double's range reads as infinity.
    if (!value.is_null() && !std::isfinite(number))
      return wrong(origin, key, "a finite number or null", &value);
    line->values.emplace_back(key, number);
  }
  return {};
}

Result<MetricsLine> from_line(std::string_view text, const std::string& origin) {
  const Result<json::value> document = parse_json(text, origin, 4, RepeatedKeys::refused);
  if (!document) return data_loss(document.error().message());
  const json::object* object = document->if_object();
  if (object == nullptr) {
    return data_loss(
        fmt::format("{}: expected an object, found {}", origin, json_kind_name(*document)));
  }
  MetricsLine line;
  CACHALOT_RETURN_IF_ERROR(read_count(*object, "step", origin, &line.step));
  CACHALOT_RETURN_IF_ERROR(object->contains("event") ? read_event(*object, origin, &line)
                                                     : read_values(*object, origin, &line));
  return line;
}

Result<Fd> open_for_append(const std::string& path) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (fd.get() < 0) return io_error(fmt::format("{}: open: {}", path, std::strerror(errno)));
  return fd;
}

// The file again with the lines that `keeps` wants; their number in the file is its second
// argument.
Status rewrite(const std::string& path, const std::vector<MetricsLine>& lines,
               const std::function<bool(const MetricsLine&, size_t)>& keeps) {
  std::string text;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (keeps(lines[i], i)) text += to_line(lines[i]);
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
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<MetricsLine> lines, read_metrics(path));
    size_t num_past = 0;
    for (size_t i = 0; i < lines.size(); ++i) {
      if (lines[i].step <= last_step) num_past = i + 1;
    }
    CACHALOT_RETURN_IF_ERROR(rewrite(path, lines, [&](const MetricsLine& line, size_t i) {
      return line.step <= last_step || (!line.event.empty() && i < num_past);
    }));
  }
  CACHALOT_ASSIGN_OR_RETURN(Fd fd, open_for_append(path));
  return MetricsLog(path, std::move(fd));
}

Status MetricsLog::rewind(int64_t last_step) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<MetricsLine> lines, read_metrics(path_));
  CACHALOT_RETURN_IF_ERROR(rewrite(path_, lines, [&](const MetricsLine& line, size_t) {
    return !line.event.empty() || line.step <= last_step;
  }));
  CACHALOT_ASSIGN_OR_RETURN(fd_, open_for_append(path_));
  return {};
}

Status MetricsLog::sync() {
  if (::fdatasync(fd_.get()) != 0)
    return io_error(fmt::format("{}: fdatasync: {}", path_, std::strerror(errno)));
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
