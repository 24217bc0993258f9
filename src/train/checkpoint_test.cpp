// Checkpoints: whole or absent, verified, refused where they are another model's.
#include "train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/python_json.h"
#include "base/sha256.h"
#include "formats/safetensors_writer.h"
#include "formats/weight_source.h"
#include "train/checkpoint_testing.h"

namespace cachalot::train {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public CheckpointFiles {
 protected:
  // Makes the manifest of step 1 right for a file that the test has changed.
  void describe_again(const std::string& name) {
    const std::string manifest_path = at(1) + "/manifest.json";
    json::object manifest =
        parse_json(read_text_file(manifest_path).value(), "manifest").value().as_object();
    const std::string text = read_text_file(at(1) + "/" + name).value();
    manifest["files"].as_object()[name] =
        json::object{{"bytes", static_cast<int64_t>(text.size())}, {"sha256", sha256_hex(text)}};
    ASSERT_TRUE(write_file_atomically(manifest_path, python_json(manifest)).ok());
  }
};

TEST_F(CheckpointTest, GivesBackWhatWasSaved) {
  ASSERT_TRUE(save(7).ok());
  ParameterStore other = initial_parameters(config_, {0.02, 0.01, 2});
  // Hash tables are the run's own; another seed's are refused.
  const Checkpoint checkpoint = Checkpoint::open(at(7)).value();
  std::vector<float> momentum(3);
  EXPECT_FALSE(checkpoint.restore(other, targets(momentum)).ok());
  ParameterStore same = initial_parameters(config_, {0.02, 0.01, 1});
  for (Parameter& p : same.parameters()) std::fill(p.master.begin(), p.master.end(), 0.0f);
  ASSERT_TRUE(checkpoint.restore(same, targets(momentum)).ok());
  EXPECT_EQ(momentum, momentum_);
  for (const Parameter& p : parameters_.parameters())
    EXPECT_EQ(same.find(p.info.name)->master, p.master) << p.info.name;
  EXPECT_EQ(checkpoint.step(), 7);
  EXPECT_EQ(checkpoint.config_hash(), "hash");
  EXPECT_EQ(checkpoint.array("trainer.x")->shape, (tensor::Shape{2}));
}

TEST_F(CheckpointTest, IsAModelDirectory) {
  ASSERT_TRUE(save(1).ok());
  const Result<formats::WeightSource> source = formats::WeightSource::open(at(1));
  ASSERT_TRUE(source.has_value()) << source.error().message();
  EXPECT_TRUE(source->validate().ok());
}

TEST_F(CheckpointTest, EveryAlteredByteAndMissingFileIsSeen) {
  ASSERT_TRUE(save(1).ok());
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(at(1))) files.push_back(entry.path());
  ASSERT_GE(files.size(), 5u);
  for (const fs::path& file : files) {
    const fs::path kept = file.string() + ".kept";
    fs::copy_file(file, kept);
    const auto size = fs::file_size(file);
    for (const uint64_t offset :
         {uint64_t{0}, static_cast<uint64_t>(size / 2), static_cast<uint64_t>(size - 1)}) {
      std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekg(static_cast<std::streamoff>(offset));
      const auto byte = static_cast<char>(stream.get() ^ 0x10);
      stream.seekp(static_cast<std::streamoff>(offset));
      stream.put(byte);
      stream.close();
      fs::rename(kept, path("aside"));  // not a file of the checkpoint
      EXPECT_FALSE(Checkpoint::open(at(1)).has_value()) << file << " byte " << offset;
      fs::copy_file(path("aside"), file, fs::copy_options::overwrite_existing);
      fs::rename(path("aside"), kept);
    }
    fs::resize_file(file, size - 2);  // more than a last line break
    fs::rename(kept, path("aside"));
    EXPECT_FALSE(Checkpoint::open(at(1)).has_value()) << file << " truncated";
    fs::remove(file);
    EXPECT_FALSE(Checkpoint::open(at(1)).has_value()) << file << " missing";
    fs::rename(path("aside"), file);
  }
  EXPECT_TRUE(Checkpoint::open(at(1)).has_value());
}

TEST_F(CheckpointTest, ADamagedNewestGivesWayToTheOneBefore) {
  EXPECT_FALSE(open_newest_checkpoint(path("run")).value().has_value());
  ASSERT_TRUE(save(1).ok());
  ASSERT_TRUE(save(2).ok());
  EXPECT_EQ(open_newest_checkpoint(path("run")).value()->step(), 2);
  fs::resize_file(at(2) + "/model.safetensors", 100);
  EXPECT_EQ(open_newest_checkpoint(path("run")).value()->step(), 1);
  fs::remove(at(1) + "/trainer.json");
  EXPECT_FALSE(open_newest_checkpoint(path("run")).has_value());
}

TEST_F(CheckpointTest, AnotherModelOrOptimizerIsRefusedAndChangesNothing) {
  ASSERT_TRUE(save(1).ok());
  const Checkpoint checkpoint = Checkpoint::open(at(1)).value();
  formats::ModelConfig wider = config_;
  wider.moe_intermediate_size = 256;
  ParameterStore other = initial_parameters(wider, {0.02, 0.01, 1});
  std::vector<float> momentum(3), longer(4);
  const std::vector<float> before = other.parameters()[0].master;
  EXPECT_EQ(checkpoint.restore(other, targets(momentum)).code(), StatusCode::invalid_argument);
  EXPECT_EQ(other.parameters()[0].master, before);
  ParameterStore same = initial_parameters(config_, {0.02, 0.01, 1});
  const std::vector<optim::StateArray> wrong = {
      {"a.momentum", tensor::DType::f32, {4}, std::as_writable_bytes(std::span(longer))}};
  EXPECT_EQ(checkpoint.restore(same, wrong).code(), StatusCode::invalid_argument);
  EXPECT_EQ(checkpoint.restore(same, {}).code(), StatusCode::invalid_argument);  // one too many
}

// A run of fewer tensors than the checkpoint's model has cannot take it, whichever kind is one too
// many.
TEST_F(CheckpointTest, TensorsThatTheModelDoesNotHaveAreRefusedByName) {
  const std::vector<formats::TensorInfo> inventory = formats::tensor_inventory(config_);
  const auto store_with = [&](const std::vector<formats::TensorInfo>& more) {
    std::vector<formats::TensorInfo> all = inventory;
    all.insert(all.end(), more.begin(), more.end());
    const auto count = [](const formats::TensorInfo& info) {
      return static_cast<size_t>(tensor::num_elements(info.shape));
    };
    return ParameterStore::from_values(
        all, {[&](const formats::TensorInfo& info) { return std::vector<float>(count(info)); },
              [&](const formats::TensorInfo& info) { return std::vector<int32_t>(count(info)); }});
  };
  const auto message = [&](const ParameterStore& found) {
    const Status status = store_with({}).check_same(found, "origin");
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::invalid_argument);
    return status.message();
  };
  const formats::TensorInfo one{.name = "layers.0.one", .shape = {2}};
  const formats::TensorInfo two{.name = "layers.0.two", .shape = {3}};
  const formats::TensorInfo table{
      .name = "layers.9.ids", .shape = {4, 2}, .tensor_class = formats::TensorClass::table};
  EXPECT_EQ(message(store_with({})), "");
  EXPECT_EQ(message(store_with({one, two})),
            "origin: expected no tensors but the model's, found layers.0.one, layers.0.two");
  EXPECT_EQ(message(store_with({table})),
            "origin: expected no tensors but the model's, found layers.9.ids");
  std::vector<formats::TensorInfo> many(11, one);
  for (size_t i = 0; i < many.size(); ++i) many[i].name += std::to_string(i);
  EXPECT_NE(message(store_with(many)).find("layers.0.one7 and 3 more"), std::string::npos);
}

TEST_F(CheckpointTest, ATensorBesideTheModelsIsRefusedByName) {
  ASSERT_TRUE(save(1).ok());
  const std::string path = at(1) + "/model.safetensors";
  {
    const formats::SafetensorsFile file = formats::SafetensorsFile::open(path).value();
    std::vector<formats::TensorSpec> specs;
    std::vector<std::span<const std::byte>> bytes;
    const std::vector<std::byte> stray(8);
    for (const formats::NamedTensor& found : file.tensors()) {
      specs.push_back({found.name, found.view.dtype, found.view.shape});
      bytes.emplace_back(found.view.data, static_cast<size_t>(found.view.num_bytes()));
    }
    specs.push_back({"layers.0.stray", tensor::DType::f32, {2}});
    bytes.emplace_back(stray);
    ASSERT_TRUE(formats::write_safetensors(path, specs, bytes).ok());
  }
  describe_again("model.safetensors");
  const Checkpoint checkpoint = Checkpoint::open(at(1)).value();
  std::vector<float> momentum(3);
  const Status status = checkpoint.restore(parameters_, targets(momentum));
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  EXPECT_NE(status.message().find("found layers.0.stray"), std::string::npos) << status.message();
}

TEST_F(CheckpointTest, PruningKeepsTheLastAndTheRound) {
  for (int64_t step = 1; step <= 6; ++step) ASSERT_TRUE(save(step).ok());
  ASSERT_TRUE(prune_checkpoints(path("run"), 2, 3).ok());
  EXPECT_EQ(list_checkpoints(path("run")), (std::vector<int64_t>{3, 5, 6}));
  ASSERT_TRUE(drop_checkpoints_after(path("run"), 3).ok());
  EXPECT_EQ(list_checkpoints(path("run")), (std::vector<int64_t>{3}));
}

TEST_F(CheckpointTest, DamagedOnesSetAsideDoNotCountInPruning) {
  for (int64_t step = 1; step <= 4; ++step) ASSERT_TRUE(save(step).ok());
  for (const int64_t step : {3, 4}) fs::resize_file(at(step) + "/model.safetensors", 100);
  ASSERT_TRUE(set_aside_checkpoints_after(path("run"), 2).ok());
  ASSERT_TRUE(prune_checkpoints(path("run"), 2, 0).ok());
  EXPECT_EQ(list_checkpoints(path("run")), (std::vector<int64_t>{1, 2}));
  EXPECT_TRUE(fs::exists(path("run/checkpoints/damaged-step-0000000004")));
}

// Killed at any moment of a save, the run has its old checkpoint or the new one, and the next save
// clears up.
TEST_F(CheckpointTest, AKilledSaveLeavesOldOrNew) {
  ASSERT_TRUE(save(1).ok());
  int64_t news = 0;
  for (int attempt = 0; attempt < 60 && news < 3; ++attempt) {
    const pid_t child = ::fork();
    if (child == 0) {
      (void)save(2);
      ::_exit(0);
    }
    ::usleep(static_cast<useconds_t>(attempt * attempt * 500));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const std::vector<int64_t> steps = list_checkpoints(path("run"));
    ASSERT_TRUE(Checkpoint::open(at(1)).has_value());
    if (steps.size() == 2) {
      ++news;
      ASSERT_TRUE(Checkpoint::open(at(2)).has_value());
      ASSERT_TRUE(drop_checkpoints_after(path("run"), 1).ok());
    }
  }
  EXPECT_GT(news, 0);
  ASSERT_TRUE(save(3).ok());
  for (const auto& entry : fs::directory_iterator(path("run/checkpoints")))
    EXPECT_TRUE(entry.path().filename().string().starts_with("step-")) << entry.path();
}

// A full disk is an error, and what was there stays.
TEST_F(CheckpointTest, AFullDiskLosesNothing) {
  ASSERT_TRUE(save(1).ok());
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{100000, 100000};  // bytes of a file: the model's does not fit
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const Status status = save(2);
    const bool named = status.message().find("/model") != std::string::npos;
    ::_exit(status.code() == StatusCode::io_error && named ? 0 : 1);
  }
  int status = 1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(list_checkpoints(path("run")), (std::vector<int64_t>{1}));
  EXPECT_TRUE(Checkpoint::open(at(1)).has_value());
  for (const auto& entry : fs::directory_iterator(path("run/checkpoints")))
    EXPECT_EQ(entry.path(), fs::path(at(1)));
}

// Saved again, a step is there at every moment.
TEST_F(CheckpointTest, ReplacingNeverLeavesNone) {
  ASSERT_TRUE(save(1).ok());
  const pid_t child = ::fork();
  if (child == 0) {
    for (int i = 0; i < 10; ++i) {
      if (!save(1).ok()) ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 1;
  int64_t absent = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) absent += !fs::exists(at(1));
  EXPECT_EQ(status, 0);
  EXPECT_EQ(absent, 0);
  EXPECT_TRUE(Checkpoint::open(at(1)).has_value());
}

// Where names cannot be exchanged, a kill leaves the old one under a name that opening gives back.
TEST_F(CheckpointTest, AReplacedOneWithoutSuccessorComesBack) {
  ASSERT_TRUE(save(1).ok());
  fs::rename(at(1), path("run/checkpoints/.replaced-step-0000000001"));
  EXPECT_EQ(open_newest_checkpoint(path("run")).value()->step(), 1);
}

TEST_F(CheckpointTest, OnlyDirectoriesOfTheWrittenFormAreListed) {
  ASSERT_TRUE(save(1).ok());
  fs::create_directory(path("run/checkpoints/step-5"));
  std::ofstream(path("run/checkpoints/step-0000000006")) << "a file";
  EXPECT_EQ(list_checkpoints(path("run")), (std::vector<int64_t>{1}));
}

TEST_F(CheckpointTest, TheManifestListsEveryFile) {
  ASSERT_TRUE(save(1).ok());
  const std::string manifest = read_text_file(at(1) + "/manifest.json", 1 << 20).value();
  for (const std::string name : {"model.safetensors", "run.toml", "config.json"}) {
    std::string renamed = manifest;
    const size_t entry = renamed.find("\"" + name + "\"");
    ASSERT_NE(entry, std::string::npos) << name;
    const size_t end = renamed.find('}', entry) + 1;
    const size_t next = renamed.find_first_not_of(", ", end);
    renamed.erase(entry, next - entry);
    std::ofstream(at(1) + "/manifest.json") << renamed;
    const Result<Checkpoint> opened = Checkpoint::open(at(1));
    ASSERT_FALSE(opened.has_value()) << name;
    EXPECT_NE(opened.error().message().find(name), std::string::npos) << opened.error().message();
  }
  std::ofstream(at(1) + "/manifest.json") << manifest;
  EXPECT_TRUE(Checkpoint::open(at(1)).has_value());
  std::ofstream(at(1) + "/model.safetensors.index.json") << "{}";
  EXPECT_EQ(Checkpoint::open(at(1)).error().code(), StatusCode::data_loss);
}

}  // namespace
}  // namespace cachalot::train
