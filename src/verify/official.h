// The `official` precision against what the published code computed on a quantised model.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/loaded_model.h"
#include "formats/safetensors.h"
#include "verify/golden_report.h"
#include "verify/golden_run.h"

namespace cachalot::verify {

// A rounding that falls the other way grows to per cents within a layer or two, so every layer
// runs alone, from the golden streams that enter it; the head and the MTP block from those that
// leave the last. Each must give golden rows, and each of its ops what float64 gives for its
// inputs, within the bound of an edge (op_trace.h): a row that is not the golden one is named with
// the op at which it parts. On FP8
// cores ops alone are compared.
Status verify_official(engine::LoadedModel& model, GoldenRunner& runner,
                       const formats::SafetensorsFile& expected,
                       const std::vector<std::vector<int32_t>>& ids, GoldenReport& report);

}  // namespace cachalot::verify
