#include "formats/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>

#include "formats/safetensors_writer.h"

namespace cachalot::formats {
namespace {

namespace fs = std::filesystem;
using tensor::DType;

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    directory_ = fs::temp_directory_path() /
                 (std::string("cachalot-") + info->name() + "-" + std::to_string(::getpid()));
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  void put(const std::string& name, std::string_view text) {
    ASSERT_TRUE(write_file_atomically(path(name), text).ok());
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  fs::path directory_;
};

const std::vector<TensorSpec>& specs() {
  static const std::vector<TensorSpec> specs = {{"b", DType::i8, {40}},
                                                {"a", DType::f32, {10}},
                                                {"big", DType::f32, {64}},
                                                {"c", DType::bf16, {2, 3}}};
  return specs;
}

std::vector<std::byte> contents_of(const TensorSpec& spec) {
  std::vector<std::byte> bytes(static_cast<size_t>(spec.num_bytes()));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(spec.name[0] + i);
  return bytes;
}

Status write_model(const std::string& directory, int64_t max_shard_bytes) {
  CACHALOT_ASSIGN_OR_RETURN(CheckpointWriter writer,
                            CheckpointWriter::create(directory, specs(), max_shard_bytes));
  for (size_t i = 0; i < specs().size(); ++i)
    CACHALOT_RETURN_IF_ERROR(writer.write(contents_of(writer.next())));
  return writer.finish();
}

void expect_model(const std::string& path) {
  const auto checkpoint = Checkpoint::open(path);
  ASSERT_TRUE(checkpoint.has_value()) << checkpoint.error().message();
  EXPECT_EQ(checkpoint.value().entries().size(), specs().size());
  for (const TensorSpec& spec : specs()) {
    const tensor::TensorView* view = checkpoint.value().find(spec.name);
    ASSERT_NE(view, nullptr);
    EXPECT_EQ(view->dtype, spec.dtype);
    EXPECT_EQ(view->shape, spec.shape);
    const auto expected = contents_of(spec);
    EXPECT_EQ(std::memcmp(view->data, expected.data(), expected.size()), 0);
  }
  EXPECT_EQ(checkpoint.value().find("none"), nullptr);
}

TEST_F(CheckpointTest, OneFile) {
  ASSERT_TRUE(write_model(directory_.string(), 1 << 20).ok());
  EXPECT_EQ(files(), std::vector<std::string>{"model.safetensors"});
  expect_model(directory_.string());
  expect_model(path("model.safetensors"));
}

TEST_F(CheckpointTest, Shards) {
  ASSERT_TRUE(write_model(directory_.string(), 90).ok());
  EXPECT_EQ(files(), (std::vector<std::string>{
                         "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                         "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  expect_model(directory_.string());
  expect_model(path("model.safetensors.index.json"));
  // Larger elements first, whatever the order of the specs.
  const auto first = SafetensorsFile::open(path("model-00001-of-00003.safetensors"));
  EXPECT_EQ(first.value().tensors()[0].name, "a");
  EXPECT_EQ(first.value().tensors()[1].name, "b");
  EXPECT_EQ(first.value().metadata().at("format"), "pt");
}

TEST_F(CheckpointTest, HostileIndexes) {
  ASSERT_TRUE(write_model(directory_.string(), 90).ok());
  const auto expect_refused = [&](std::string_view index, std::string_view needle) {
    put("model.safetensors.index.json", index);
    const auto result = Checkpoint::open(directory_.string());
    ASSERT_FALSE(result.has_value()) << index;
    EXPECT_NE(result.error().message().find(needle), std::string::npos) << result.error().message();
  };
  for (const char* name : {"../x", "/etc/passwd", "..", ".", "", "a/b", "a\\\\b", "a\\u0000b"}) {
    expect_refused(std::string(R"({"weight_map":{"a":")") + name + "\"}}", "in the same directory");
  }
  expect_refused(R"({"weight_map":{"a":5}})", "tensor a");
  expect_refused(R"({"weight_map":[]})", "weight_map: expected an object");
  expect_refused(R"({})", "no such key");
  expect_refused(R"([])", "expected an object, found array");
  expect_refused(R"({"weight_map":{"a":"nowhere.safetensors"}})", "nowhere.safetensors");
  expect_refused(R"({"weight_map":{"big":"model-00001-of-00003.safetensors"}})",
                 "tensor big: expected it in");
  expect_refused(std::string(100000, '['), "not valid JSON");
  // A tensor that the map leaves out is not part of the checkpoint.
  put("model.safetensors.index.json", R"({"weight_map":{"a":"model-00001-of-00003.safetensors"}})");
  EXPECT_EQ(Checkpoint::open(directory_.string()).value().entries().size(), 1u);
}

// Which of the two is the model? The same twice is fine, and so is an index without its shards.
TEST_F(CheckpointTest, AFileBesideAnIndex) {
  ASSERT_TRUE(write_model(directory_.string(), 90).ok());
  const std::string shard = path("model-00002-of-00003.safetensors");
  fs::create_directories(path("whole"));
  ASSERT_TRUE(write_model(path("whole"), 1 << 20).ok());
  fs::copy(path("whole/model.safetensors"), path("model.safetensors"));
  testing::internal::CaptureStderr();
  expect_model(directory_.string());
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find(path("model.safetensors") + " is read"), std::string::npos) << said;
  EXPECT_NE(said.find("index.json"), std::string::npos) << said;

  std::string bytes = read_text_file(path("model.safetensors")).value();
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  put("model.safetensors", bytes);
  const auto differs = Checkpoint::open(directory_.string());
  ASSERT_FALSE(differs.has_value());
  EXPECT_NE(differs.error().message().find("tensor b: expected the values"), std::string::npos)
      << differs.error().message();
  put("model.safetensors", read_text_file(shard).value());  // lacks tensors
  EXPECT_FALSE(Checkpoint::open(directory_.string()).has_value());

  fs::remove(shard);
  testing::internal::CaptureStderr();
  EXPECT_TRUE(Checkpoint::open(directory_.string()).has_value());
  EXPECT_NE(testing::internal::GetCapturedStderr().find("missing"), std::string::npos);
}

TEST_F(CheckpointTest, NothingThere) {
  EXPECT_EQ(Checkpoint::open(directory_.string()).error().code(), StatusCode::not_found);
  EXPECT_EQ(Checkpoint::open(path("no/such")).error().code(), StatusCode::not_found);
  put("model.safetensors", "");
  EXPECT_EQ(Checkpoint::open(directory_.string()).error().code(), StatusCode::data_loss);
}

// The file system refuses to let a file grow past a limit, at every limit up to the model's size:
// an error each time, no part left behind, and the files that were there untouched.
TEST_F(CheckpointTest, AFullDiskLeavesTheOldModel) {
  ASSERT_TRUE(write_model(directory_.string(), 90).ok());
  const std::vector<std::string> before = files();
  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit old {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  for (rlim_t limit : {0, 1, 7, 100, 200, 250, 300, 350}) {
    struct rlimit small = old;
    small.rlim_cur = limit;
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const Status status = write_model(directory_.string(), 90);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
    EXPECT_FALSE(status.ok()) << limit;
    EXPECT_EQ(files(), before) << limit;
    expect_model(directory_.string());
  }
}

TEST_F(CheckpointTest, AnUnfinishedWriterLeavesNothing) {
  {
    auto writer = CheckpointWriter::create(directory_.string(), specs(), 90);
    ASSERT_TRUE(writer.has_value());
    ASSERT_TRUE(writer->write(contents_of(writer->next())).ok());
    EXPECT_EQ(writer->finish().code(), StatusCode::data_loss);
  }
  EXPECT_TRUE(files().empty());
}

TEST(ShardPlan, LimitsAndNames) {
  const ShardPlan plan = plan_shards(specs(), 80);
  ASSERT_EQ(plan.shards.size(), 3u);
  EXPECT_EQ(plan.shards[0], (std::vector<size_t>{1, 0}));  // exactly 80 bytes fit
  EXPECT_EQ(plan.shards[1], std::vector<size_t>{2});  // 256 bytes: larger than the limit, alone
  EXPECT_EQ(plan_shards(specs(), 79).shards.size(), 4u);
  EXPECT_EQ(plan_shards({}, 1).file_names, std::vector<std::string>{"model.safetensors"});
}

}  // namespace
}  // namespace cachalot::formats
