#include "engine/request.h"

namespace cachalot::engine {

std::string_view finish_name(Finish finish) {
  switch (finish) {
    case Finish::stop: return "stop";
    case Finish::length: return "length";
    case Finish::cancelled: return "cancelled";
    case Finish::deadline: return "deadline";
  }
  return "unknown";
}

}  // namespace cachalot::engine
