#include "data/package_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>

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

Result<std::string> sha256_of(const fs::path& path) {
  CACHALOT_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path.string()));
  Sha256 hash;
  hash.add(file.bytes());
  return hash.hex();
}

Status expect_locked(const fs::path& archive, const std::string& name,
                     const LockedPackage& package) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string found, sha256_of(archive));
  if (found == package.sha256) return {};
  return data_loss(fmt::format("{} {}: {}: expected SHA-256 {}, found {}", name, package.version,
                               archive.string(), package.sha256, found));
}

Result<fs::path> download(const fs::path& folder, const std::string& name,
                          const LockedPackage& package) {
  // Else root is warned that apt's own user cannot write here.
  const Result<std::string> fetched =
      run_program({.argv = {"apt-get", "-q", "-o", "APT::Sandbox::User=root", "download",
                            name + "=" + package.version},
                   .debian_package = "apt",
                   .directory = folder.string()});
  if (fetched) return find_archive(folder, name);
  if (fetched.error().code() == StatusCode::not_found) return fetched.error();
  const Result<std::string> offered =
      run_program({.argv = {"apt-cache", "madison", name}, .debian_package = "apt"});
  return not_found(fmt::format("{}: expected version {}, offered: {} ({})", name, package.version,
                               offered && !offered->empty() ? *offered : "none",
                               fetched.error().message()));
}

// The archive in `folder`. One that is not there, or not whole (the machine went down while it
// came), is fetched.
Result<fs::path> locked_archive(const fs::path& folder, const std::string& name,
                                const LockedPackage& package) {
  Status damage;
  if (const Result<fs::path> there = find_archive(folder, name)) {
    damage = expect_locked(*there, name, package);
    if (damage.ok()) return there;
  }
  std::error_code error;
  const fs::path aside = folder.string() + ".aside";
  fs::remove_all(aside, error);
  CACHALOT_RETURN_IF_ERROR(make_directory(aside));
  const Result<fs::path> fetched = download(aside, name, package);
  if (!fetched && !damage.ok())
    return data_loss(
        fmt::format("{}; fetching it again: {}", damage.message(), fetched.error().message()));
  CACHALOT_RETURN_IF_ERROR(fetched.error());
  CACHALOT_RETURN_IF_ERROR(expect_locked(*fetched, name, package));
  fs::remove_all(folder, error);
  fs::rename(aside, folder, error);
  if (error) return io_error(fmt::format("{}: rename: {}", folder.string(), error.message()));
  return folder / fetched->filename();
}

// `folder`, filled by the program whose words come from the folder to fill.
Result<std::string> unpack(const fs::path& folder, const std::string& what,
                           const std::function<Program(const std::string&)>& program) {
  const fs::path aside = folder.string() + ".aside";
  std::error_code error;
  fs::remove_all(aside, error);
  CACHALOT_RETURN_IF_ERROR(make_directory(aside));
  const Result<std::string> said = run_program(program(aside.string()));
  if (!said && said.error().code() != StatusCode::not_found)
    return data_loss(fmt::format("{}: expected an archive that can be unpacked, found: {}", what,
                                 said.error().message()));
  CACHALOT_RETURN_IF_ERROR(said.error());
  fs::rename(aside, folder, error);
  if (error) return io_error(fmt::format("{}: rename: {}", folder.string(), error.message()));
  return folder.string();
}

}  // namespace

Result<std::string> unpacked_package(const std::string& cache, const std::string& name,
                                     const LockedPackage& package) {
  const fs::path root = fs::path(cache);
  const std::string key = name + "_" + package.sha256.substr(0, 16);
  const fs::path unpacked = root / "unpacked" / key;
  if (fs::exists(unpacked)) return unpacked.string();
  CACHALOT_ASSIGN_OR_RETURN(const fs::path archive,
                            locked_archive(root / "archives" / key, name, package));
  return unpack(unpacked, name + " " + package.version, [&](const std::string& folder) {
    return Program{.argv = {"dpkg-deb", "-x", archive.string(), folder}, .debian_package = "dpkg"};
  });
}

Result<std::string> unpacked_tar(const std::string& unpacked, const std::string& path) {
  const fs::path archive = fs::path(unpacked) / path;
  std::string name = path;
  std::replace(name.begin(), name.end(), '/', '_');
  const fs::path folder = unpacked + "." + name;
  if (fs::exists(folder)) return folder.string();
  if (!fs::is_regular_file(archive))
    return not_found(fmt::format("{}: expected a tar archive, found none", archive.string()));
  return unpack(folder, archive.string(), [&](const std::string& aside) {
    return Program{.argv = {"tar", "-xf", archive.string(), "--no-same-owner", "-C", aside},
                   .debian_package = "tar, xz-utils"};
  });
}

}  // namespace cachalot::data
