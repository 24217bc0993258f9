// manifest.json of a training checkpoint: whose step it is, and bytes and SHA-256 of every other
// file of its directory.
// Layout  docs/formats/checkpoint.md.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace cachalot::formats {

struct Manifest {
  int64_t step = 0;
  std::string config_hash;
};

// Of the files that are there.
Status write_manifest(const std::string& directory, const Manifest& manifest);

// After comparing every file with it.
// Errors  data_loss where a file is missing, altered, or not listed, or one that a checkpoint needs
//         is not (file, expected, found); invalid_argument where the text is no manifest,
//         unsupported where it is another format's.
Result<Manifest> read_manifest(const std::string& directory);

}  // namespace cachalot::formats
