#include "apps/run_folder.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <filesystem>

#include "base/file.h"

namespace cachalot::apps {
namespace fs = std::filesystem;

std::string run_directory(const std::string& data) {
  fs::path path = fs::path(data).lexically_normal();
  while (!path.empty() && (path.filename().empty() || path.filename() == "." ||
                           path.filename().string().find_first_of("*?[") != std::string::npos)) {
    if (path == path.root_path()) break;
    path = path.parent_path();
  }
  const std::string name =
      path.empty() || path == path.root_path() ? "texts" : path.stem().string();
  return "runs/" + name;
}

Result<NewFolder> NewFolder::temporary() {
  std::error_code error;
  std::string path = (fs::temp_directory_path(error) / "cachalot-texts-XXXXXX").string();
  if (error || ::mkdtemp(path.data()) == nullptr)
    return io_error(fmt::format("{}: expected to make a temporary folder, found none", path));
  return NewFolder(path, path);
}

Result<NewFolder> NewFolder::at(const std::string& path) {
  std::error_code error;
  fs::path made;
  for (fs::path above = path;
       !above.empty() && !fs::exists(fs::symlink_status(above, error));  // a dead link is there
       above = above.parent_path())
    made = above;
  NewFolder folder(path, made.string());
  CACHALOT_RETURN_IF_ERROR(create_directories(path));
  return folder;
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  if (!made_.empty()) fs::remove_all(made_, ignored);
}

}  // namespace cachalot::apps
