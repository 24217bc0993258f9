// Debian packages, fetched once and unpacked: DIR/PACKAGE_VERSION/ holds a package's files.
// Errors  not_found: apt-get or dpkg-deb are missing, or the locked version is gone (expected, offered); data_loss: another SHA-256.
#pragma once

#include <string>

#include "base/status.h"
#include "data/corpus_recipe.h"

namespace cachalot::data {

// The folder of its files.
Result<std::string> unpacked_package(const std::string& cache, const std::string& name,
                                     const LockedPackage& package);

}  // namespace cachalot::data
