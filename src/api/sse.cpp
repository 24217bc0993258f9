#include "api/sse.h"

#include "base/python_json.h"

namespace cachalot::api {

void append_data(const json::value& data, std::string& out) {
  out += "data: ";
  out += python_json(data);
  out += "\n\n";
}

void append_event(std::string_view type, const json::value& data, std::string& out) {
  out += "event: ";
  out += type;
  out += '\n';
  append_data(data, out);
}

}  // namespace cachalot::api
