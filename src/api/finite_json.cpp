#include "api/finite_json.h"

#include <cmath>
#include <limits>

#include "base/json.h"

namespace cachalot::api {

void make_finite(json::value& value) {
  if (value.is_double() && std::isinf(value.get_double())) {
    value = std::copysign(std::numeric_limits<double>::max(), value.get_double());
  } else if (value.is_array()) {
    for (json::value& one : value.get_array()) make_finite(one);
  } else if (value.is_object()) {
    for (auto& member : value.get_object()) make_finite(member.value());
  }
}

}  // namespace cachalot::api
