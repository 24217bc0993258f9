#include <cstdio>

#include "apps/verbs.h"

namespace cachalot::apps {

int report_error(const Status& status) {
  std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return 2;
}

int exit_code_of(const Status& status) { return status.ok() ? 0 : report_error(status); }

}  // namespace cachalot::apps
