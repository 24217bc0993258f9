// Any text as the manifest.json of a directory of real files: an error that names a file of the
// directory, or a manifest that lists exactly these files, each by its own bytes and SHA-256.
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "base/sha256.h"
#include "formats/manifest.h"

namespace {

using namespace cachalot;
using namespace cachalot::formats;

constexpr const char* kNames[] = {"config.json", "model.safetensors", "optimizer.safetensors",
                                  "run.toml", "trainer.json"};

// A directory of its own for each process, removed at exit: the fuzzer runs several side by side.
struct CheckpointDirectory {
  std::string path =
      (std::filesystem::temp_directory_path() / ("cachalot-manifest-" + std::to_string(getpid())))
          .string();
  CheckpointDirectory() {
    std::filesystem::create_directory(path);
    for (const char* name : kNames) std::ofstream(path + "/" + name) << name;
  }
  ~CheckpointDirectory() { std::filesystem::remove_all(path); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const CheckpointDirectory directory;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::ofstream(directory.path + "/manifest.json", std::ios::binary) << text;
  const Result<Manifest> manifest = read_manifest(directory.path);
  if (!manifest) {
    CACHALOT_CHECK(manifest.error().message().find(directory.path) != std::string::npos);
    return 0;
  }
  const json::value listed = parse_json(text, "input").value().at("files");
  CACHALOT_CHECK(listed.as_object().size() == std::size(kNames));
  for (const char* name : kNames) {
    CACHALOT_CHECK(listed.at(name).at("bytes") == std::string_view(name).size());
    CACHALOT_CHECK(listed.at(name).at("sha256").as_string() == sha256_hex(name));
  }
  CACHALOT_CHECK(manifest->step >= 0 && manifest->step <= int64_t{1} << 60);
  return 0;
}
