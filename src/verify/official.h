// The `official` precision against what the published code computed on a quantised model.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/loaded_model.h"
#include "formats/safetensors.h"
#include "verify/golden_report.h"
#include "verify/golden_run.h"

namespace cachalot::verify {

// Both implementations round at the same points but add in other orders, and a rounding that falls
// the other way grows from layer to layer. What that explains is measured: the same roundings are
// evaluated in float64 (reference64.h), and this build must be as close to the golden rows as that
// evaluation is, within a factor that two independent errors allow. A row far outside must hold a
// routing or selection choice that the error could turn, and the check prints its gap.
Status verify_official(engine::LoadedModel& model, GoldenRunner& runner,
                       const formats::SafetensorsFile& expected,
                       const std::vector<std::vector<int32_t>>& ids, GoldenReport& report);

}  // namespace cachalot::verify
