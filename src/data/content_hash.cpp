#include "data/content_hash.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <filesystem>

#include "base/bounded_directory.h"
#include "base/env.h"
#include "data/hex64.h"

namespace cachalot::data {
namespace {

constexpr int64_t kMaxKeptBytes = int64_t{1} << 20;  // some thousands of files

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

// The file as it is now; empty where it cannot be looked at.
std::string identity(const std::string& path) {
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::canonical(path, error);
  struct stat info {};
  if (error || ::stat(canonical.c_str(), &info) != 0) return "";
  return fmt::format("{} bytes, modified {}, changed {}: {}\n", info.st_size,
                     nanoseconds(info.st_mtim), nanoseconds(info.st_ctim), canonical.string());
}

}  // namespace

ContentHashOptions ContentHashOptions::from_environment() {
  ContentHashOptions options;
  if (env_cache_gib() > 0) options.directory = env_cache_dir();
  if (!options.directory.empty()) options.directory += "/hashes";
  return options;
}

uint64_t content_hash(const MappedFile& file, const ContentHashOptions& options) {
  const std::span<const std::byte> bytes = file.bytes();
  const auto hash = [&] { return XXH3_64bits(bytes.data(), bytes.size()); };
  if (options.directory.empty() || static_cast<int64_t>(bytes.size()) < options.min_bytes)
    return hash();
  const std::string file_now = identity(file.path());
  if (file_now.empty()) return hash();
  // A line of the file as it was, then the hash.
  const BoundedDirectory kept(options.directory, kMaxKeptBytes);
  const std::string name = to_hex64(XXH3_64bits(file_now.data(), file_now.size())) + ".hash";
  if (const Result<std::string> text = read_text_file(kept.path_of(name), kMaxKeptBytes);
      text && text->starts_with(file_now)) {
    if (const auto value = parse_hex64(text->substr(file_now.size()))) {
      kept.mark_used(name);
      return *value;
    }
  }
  const uint64_t value = hash();
  if (identity(file.path()) != file_now) return value;  // it was changed meanwhile
  const std::string text = file_now + to_hex64(value);
  (void)kept.write(name, static_cast<int64_t>(text.size()),
                   [&](Sink& sink) { return sink.write(std::as_bytes(std::span(text))); });
  return value;
}

}  // namespace cachalot::data
