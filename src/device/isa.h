// Which CPU kernels run. Chosen once at start from what the machine has; CACHALOT_ISA or a caller
// may force a lower level.
#pragma once

#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::device {

// reference: plain loops, runs anywhere. avx2 needs AVX2, FMA and F16C; avx512 needs F, BW, DQ and
// VL; avx512bf16 adds BF16, VNNI and VBMI. A kernel without a version for a level uses the next one
// below.
enum class Isa { reference, avx2, avx512, avx512bf16 };

std::string_view isa_name(Isa isa);
Result<Isa> parse_isa(std::string_view name);
Isa machine_isa();                // the best this machine has
std::vector<Isa> machine_isas();  // all it can run, lowest first: tests run once per level
Result<Isa> chosen_isa();         // machine_isa(), or what CACHALOT_ISA asks for

}  // namespace cachalot::device
