// What another implementation computed, of a golden set (golden.h).
#pragma once

#include <string>

#include "base/status.h"
#include "formats/safetensors.h"

namespace cachalot::verify {

// The file at a path, or where there is none at path + ".zst", the same compressed, of at most
// 1 GiB.
Result<formats::SafetensorsFile> open_expected(const std::string& path);
// Whether one of the two is there.
bool has_expected(const std::string& path);

}  // namespace cachalot::verify
