// What another implementation computed, of a golden set (golden.h).
#pragma once

#include <string>

#include "base/status.h"
#include "formats/safetensors.h"

namespace cachalot::verify {

// The folder's expected.safetensors, or where there is none expected.safetensors.zst, the same
// compressed, of at most 1 GiB.
Result<formats::SafetensorsFile> open_expected(const std::string& folder);

}  // namespace cachalot::verify
