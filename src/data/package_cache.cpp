#include "data/package_cache.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/file.h"
#include "base/sha256.h"
#include "data/run_program.h"

namespace cachalot::data {
namespace {

namespace fs = std::filesystem;

Status make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? io_error(fmt::format("{}: create: {}", path.string(), error.message())) : Status();
}

// What apt-get puts down has the version's ':' spelled %3a.
Result<fs::path> find_archive(const fs::path& folder, const std::string& name) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string file = entry.path().filename().string();
    if (file.starts_with(name + "_") && file.ends_with(".deb")) return entry.path();
  }
  return not_found(fmt::format("{}: expected an archive of {}, found none", folder.string(), name));
}

Result<fs::path> fetch(const fs::path& folder, const std::string& name,
                       const LockedPackage& package) {
  if (const Result<fs::path> there = find_archive(folder, name)) return there;
  CACHALOT_RETURN_IF_ERROR(make_directory(folder));
  const Result<std::string> fetched =
      run_program({"apt-get", "-q", "download", name + "=" + package.version}, folder.string());
  if (!fetched) {
    const Result<std::string> offered = run_program({"apt-cache", "madison", name}, "");
    return not_found(fmt::format("{}: expected version {}, offered: {} ({})", name, package.version,
                                 offered && !offered->empty() ? *offered : "none",
                                 fetched.error().message()));
  }
  return find_archive(folder, name);
}

}  // namespace

Result<std::string> unpacked_package(const std::string& cache, const std::string& name,
                                     const LockedPackage& package) {
  const fs::path root = fs::path(cache);
  const fs::path unpacked = root / "unpacked" / (name + "_" + package.sha256.substr(0, 16));
  if (fs::exists(unpacked)) return unpacked.string();
  const fs::path folder = root / "archives" / (name + "_" + package.sha256.substr(0, 16));
  CACHALOT_ASSIGN_OR_RETURN(const fs::path archive, fetch(folder, name, package));
  {
    CACHALOT_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(archive.string()));
    Sha256 hash;
    hash.add(file.bytes());
    const std::string found = hash.hex();
    if (found != package.sha256)
      return data_loss(fmt::format("{}: expected SHA-256 {}, found {}", archive.string(),
                                   package.sha256, found));
  }
  const fs::path aside = unpacked.string() + ".aside";
  std::error_code error;
  fs::remove_all(aside, error);
  CACHALOT_RETURN_IF_ERROR(make_directory(aside));
  CACHALOT_ASSIGN_OR_RETURN(const std::string said,
                            run_program({"dpkg-deb", "-x", archive.string(), aside.string()}, ""));
  fs::rename(aside, unpacked, error);
  if (error) return io_error(fmt::format("{}: rename: {}", unpacked.string(), error.message()));
  return unpacked.string();
}

}  // namespace cachalot::data
