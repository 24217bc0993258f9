// One run at a time writes a run's directory.
#pragma once

#include <string>

#include "base/file.h"
#include "base/status.h"

namespace cachalot::train {

// Holds DIRECTORY/run.lock, in which the process's id stands, until it is destroyed or the process
// ends, however it does. The file stays; it says nothing once nobody holds it. Move-only.
class RunLock {
 public:
  // Errors  invalid_argument names the process that holds the directory.
  static Result<RunLock> acquire(const std::string& directory);

 private:
  explicit RunLock(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace cachalot::train
