// Any text as a model.safetensors.index.json beside two real shards: an error that names a file of
// the directory, or a checkpoint whose every tensor lies in one of the two shards.
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "formats/checkpoint.h"
#include "formats/safetensors_writer.h"

namespace {

using namespace cachalot;
using namespace cachalot::formats;

// A directory of its own for each process, removed at exit: the fuzzer runs several side by side.
struct ShardDirectory {
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("cachalot-shard-index-" + std::to_string(getpid()));
  ShardDirectory() {
    std::filesystem::create_directory(path);
    const std::vector<std::byte> bytes(24);
    const auto shard = [&](const char* name, const char* tensor) {
      const std::vector<TensorSpec> specs = {{tensor, tensor::DType::f32, {2, 3}}};
      CACHALOT_CHECK(write_safetensors((path / name).string(), specs, {bytes}).ok());
    };
    shard("a.safetensors", "x");
    shard("b.safetensors", "y");
  }
  ~ShardDirectory() { std::filesystem::remove_all(path); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ShardDirectory directory;
  const std::string index = (directory.path / "model.safetensors.index.json").string();
  std::ofstream(index, std::ios::binary).write(reinterpret_cast<const char*>(data), size);
  const Result<Checkpoint> checkpoint = Checkpoint::open(directory.path.string());
  if (!checkpoint) {
    CACHALOT_CHECK(checkpoint.error().message().find(directory.path.string()) != std::string::npos);
    return 0;
  }
  for (const Checkpoint::Entry& entry : checkpoint->entries()) {
    CACHALOT_CHECK(entry.name == "x" || entry.name == "y");
    CACHALOT_CHECK(checkpoint->find(entry.name) == entry.view && entry.view->num_bytes() == 24);
  }
  return 0;
}
