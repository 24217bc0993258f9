// Where a run lies that was not told where, and folders that are made for one.
#pragma once

#include <string>
#include <utility>

#include "base/status.h"

namespace cachalot::apps {

// "runs/letters" of "/home/ann/letters/", of "letters/*.txt" and of "letters.jsonl".
std::string run_directory(const std::string& data);

// A folder that goes with the object unless it is kept, and with it those above it that were made
// for it. One that was there before stays.
class NewFolder {
 public:
  static Result<NewFolder> temporary();
  static Result<NewFolder> at(const std::string& path);
  NewFolder(NewFolder&& other) noexcept
      : path_(std::move(other.path_)), made_(std::exchange(other.made_, "")) {}
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  ~NewFolder();
  const std::string& path() const { return path_; }
  void keep() { made_.clear(); }

 private:
  NewFolder(std::string path, std::string made) : path_(std::move(path)), made_(std::move(made)) {}
  std::string path_;
  std::string made_;  // the topmost that was not there
};

}  // namespace cachalot::apps
