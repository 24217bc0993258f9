// A folder of files that can be made again, bounded in bytes: the least recently used go first.
// Processes share it: one writes at a time, behind a lock that ends with its process, and a reader
// finds a whole file or none. What stands in the folder belongs to it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/file.h"
#include "base/status.h"

namespace cachalot {

class BoundedDirectory {
 public:
  // Made at the first write.
  BoundedDirectory(std::string path, int64_t max_bytes)
      : path_(std::move(path)), max_bytes_(max_bytes) {}

  std::string path_of(const std::string& name) const { return path_ + "/" + name; }
  // The file's time of last use is now; nothing where it cannot be set.
  void mark_used(const std::string& name) const;

  // Makes room for num_bytes, removing other files and what dead writers left, then has `write`
  // fill the file, which is synced and takes the name at the end.
  // Errors  cancelled: another process is writing here; resource_exhausted: more than max_bytes, or
  //         than the disk has free beside a twentieth of it; those of the system and of `write`.
  Status write(const std::string& name, int64_t num_bytes,
               const std::function<Status(Sink&)>& write) const;

 private:
  Status make_room(const std::string& name, int64_t num_bytes) const;

  std::string path_;
  int64_t max_bytes_;
};

}  // namespace cachalot
