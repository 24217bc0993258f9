// Debian packages, fetched once and unpacked: DIR/archives/PACKAGE_SHA/ holds the archive,
// DIR/unpacked/PACKAGE_SHA/ its files.
// Whole   Both appear by rename: what an interrupted download or unpacking leaves is thrown away. A
//         kept archive that is no longer the locked one is fetched again.
// Errors  not_found: apt-get, dpkg-deb or tar are missing (what to install), the locked version is
//         gone (expected, offered), or there is no tar archive; data_loss: another SHA-256
//         (package, expected, found), or an archive that cannot be unpacked.
#pragma once

#include <string>

#include "base/status.h"
#include "data/corpus_recipe.h"

namespace cachalot::data {

// The folder of its files.
Result<std::string> unpacked_package(const std::string& cache, const std::string& name,
                                     const LockedPackage& package);

// The folder of the files in a tar archive, compressed or not, at `path` among a package's files;
// it lies beside theirs.
Result<std::string> unpacked_tar(const std::string& unpacked, const std::string& path);

}  // namespace cachalot::data
