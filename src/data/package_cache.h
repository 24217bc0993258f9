// Debian packages, fetched once and unpacked: DIR/archives/PACKAGE_SHA/ holds the archive, DIR/unpacked/PACKAGE_SHA/ its files.
// Whole   Both appear by rename: what an interrupted download or unpacking leaves is thrown away. A kept archive that is no longer
//         the locked one is fetched again.
// Errors  not_found: apt-get or dpkg-deb are missing (what to install), or the locked version is gone (expected, offered); data_loss:
//         another SHA-256 (package, expected, found), or an archive that cannot be unpacked.
#pragma once

#include <string>

#include "base/status.h"
#include "data/corpus_recipe.h"

namespace cachalot::data {

// The folder of its files.
Result<std::string> unpacked_package(const std::string& cache, const std::string& name,
                                     const LockedPackage& package);

}  // namespace cachalot::data
