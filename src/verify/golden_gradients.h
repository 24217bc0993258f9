// The training half of verify golden: loss, every parameter's gradient, and the first AdamW steps.
// Format  expected.safetensors also labels [b, t] (of the token itself, not of the next; negative =
//         masked) and loss [1]; the gradients as verify/golden_gradient_file.h says; train.json
//         {"adamw": {lr, betas, eps, weight_decay}, "losses": [...]}: losses before each
//         step on the same batch.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "device/exec_context.h"
#include "formats/safetensors.h"
#include "verify/golden_report.h"

namespace cachalot::verify {

// directory holds config.json and model.safetensors; ids are the rows of input_ids. Files that are
// not there are not checked.
Status verify_gradients(device::ExecContext& ctx, const std::string& directory,
                        const formats::SafetensorsFile& expected,
                        const std::vector<std::vector<int32_t>>& ids, GoldenReport& report);

}  // namespace cachalot::verify
