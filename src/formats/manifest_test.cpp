// Manifests: what is accepted is what was written.
#include "formats/manifest.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/file.h"

namespace cachalot::formats {
namespace {

namespace fs = std::filesystem;

class ManifestTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "cachalot-manifest-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    for (const char* name :
         {"config.json", "model.safetensors", "optimizer.safetensors", "trainer.json", "run.toml"})
      std::ofstream(directory_ + "/" + name) << "the text of " << name;
    ASSERT_TRUE(write_manifest(directory_, {12, "abc"}).ok());
    text_ = read_text_file(directory_ + "/manifest.json").value();
  }
  void TearDown() override { fs::remove_all(directory_); }

  // The error for the written text with one part replaced.
  Status read_with(const std::string& from, const std::string& to) {
    std::string text = text_;
    EXPECT_NE(text.find(from), std::string::npos) << from;
    text.replace(text.find(from), from.size(), to);
    std::ofstream(directory_ + "/manifest.json") << text;
    const Result<Manifest> manifest = read_manifest(directory_);
    return manifest ? Status() : manifest.error();
  }

  std::string directory_;
  std::string text_;
};

TEST_F(ManifestTest, IsReadAsWritten) {
  const Manifest manifest = read_manifest(directory_).value();
  EXPECT_EQ(manifest.step, 12);
  EXPECT_EQ(manifest.config_hash, "abc");
  EXPECT_TRUE(read_with("12", "13").ok());
}

TEST_F(ManifestTest, OtherTextsAreRefusedByKey) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"{", "[", "not valid JSON"},
      {text_, "[]", "expected an object, found array"},
      {"\"cachalot-training-checkpoint\"", "\"another\"", "format"},
      {"\"version\": 1", "\"version\": 2", "version"},
      {"\"step\": 12", "\"step\": -1", "step"},
      {"\"step\": 12", "\"step\": 1.5", "step"},
      {"\"step\": 12", "\"step\": 12, \"step\": 13", "\"step\" again"},
      {"\"config_hash\": \"abc\"", "\"config_hash\": 7", "config_hash"},
      {"\"files\": {", "\"files\": [], \"x\": {", "files"},
      {"\"files\": {", "\"other\": {", "files"},
      {"\"run.toml\"", "\"../run.toml\"", "/../run.toml: expected"},
      {"\"bytes\": ", "\"bytes\": 1", "/config.json: expected"},
      {"\"sha256\": \"", "\"sha256\": \"0", "/config.json: expected"},
      {"\"config.json\": {", "\"config.json\": {\"more\": 1, ", "/config.json: expected"},
  };
  for (const auto& [from, to, part] : cases) {
    const Status status = read_with(from, to);
    EXPECT_FALSE(status.ok()) << to;
    EXPECT_TRUE(status.message().starts_with(directory_)) << status.message();
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace cachalot::formats
