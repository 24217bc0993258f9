// `cachalot inspect`: what a checkpoint or a bare config.json is and costs.
#pragma once

#include <string>

#include "base/json.h"
#include "base/status.h"

namespace cachalot::apps {

struct InspectOptions {
  std::string path;  // model directory, a config.json, or the name of a preset that is no path
  bool json = false;
  std::string svg_directory;  // empty: no curves
};

// The report, as text or JSON. With svg_directory, also writes kv_bytes.svg and flops.svg there.
// Errors  a checkpoint that does not fit its configuration is reported in the text (`problem`), not
//         refused.
Result<std::string> inspect(const InspectOptions& options);

}  // namespace cachalot::apps
