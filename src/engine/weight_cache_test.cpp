// Packed weights that are kept between starts, and the fingerprint of the weights.
#include "engine/weight_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "formats/test_checkpoint.h"
#include "model/random_weights.h"

namespace cachalot::engine {
namespace {

namespace fs = std::filesystem;

// Every layer kind, FP8 and FP4.
formats::ModelConfig small_config() {
  formats::ModelConfig config;
  config.vocab_size = 256;
  config.hidden_size = 128;
  config.num_hidden_layers = 4;
  config.num_hash_layers = 1;
  config.num_nextn_predict_layers = 1;
  config.num_attention_heads = 4;
  config.head_dim = 64;
  config.qk_rope_head_dim = 32;
  config.q_lora_rank = 64;
  config.o_groups = 2;
  config.o_lora_rank = 128;
  config.sliding_window = 32;
  config.compress_ratios = {0, 4, 128, 4, 0};
  config.index_n_heads = 4;
  config.index_head_dim = 64;
  config.index_topk = 16;
  config.n_routed_experts = 4;
  config.num_experts_per_tok = 2;
  config.moe_intermediate_size = 64;
  config.max_position_embeddings = 4096;
  config.expert_dtype = formats::ExpertDType::fp4;
  config.quantization_config.present = true;
  return config;
}

// What the model multiplies by, all of it.
std::vector<std::byte> packed_bytes(const LoadedModel& model) {
  std::vector<std::byte> all;
  for (const model::WeightSlot& slot : model.transformer().weights().slots) {
    if (slot.matrix == nullptr) continue;
    all.insert(all.end(), slot.matrix->bytes().begin(), slot.matrix->bytes().end());
    all.push_back(std::byte{slot.matrix->has_nan_codes()});
  }
  return all;
}

class WeightCacheTest : public testing::Test {
 protected:
  WeightCacheTest() : directory_("weight-cache"), model_(directory_.path("model")) {
    fs::create_directories(model_);
    options_.path = model_;
    options_.threads = 2;
    options_.weight_cache = {directory_.path("packed"), int64_t{1} << 30, 0};
  }
  void SetUp() override {
    ASSERT_TRUE(formats::write_random_model(model_, small_config(), 1 << 20).ok());
  }

  std::unique_ptr<LoadedModel> load() {
    auto loaded = LoadedModel::load(options_);
    EXPECT_TRUE(loaded.has_value()) << loaded.error().message();
    return *std::move(loaded);
  }
  std::vector<std::string> kept() const {
    std::vector<std::string> paths;
    for (const auto& entry : fs::directory_iterator(directory_.path("packed"))) {
      if (entry.path().extension() == ".packed") paths.push_back(entry.path().string());
    }
    return paths;
  }
  std::string shard() const {
    for (const auto& entry : fs::directory_iterator(model_)) {
      if (entry.path().extension() == ".safetensors") return entry.path().string();
    }
    return "";
  }
  // A byte of the last tensor, in place.
  static void change_weights(const std::string& path) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-3, std::ios::end);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(-3, std::ios::end);
    file.put(byte);
  }

  formats::TemporaryDirectory directory_;
  std::string model_;
  ModelOptions options_;
};

TEST_F(WeightCacheTest, TheSecondStartMapsWhatTheFirstPacked) {
  std::vector<std::byte> bytes;
  uint64_t fingerprint = 0;
  {
    const auto first = load();
    EXPECT_FALSE(first->is_mapped());
    bytes = packed_bytes(*first);
    fingerprint = first->weights_fingerprint();
  }
  ASSERT_EQ(kept().size(), 1u);
  for (const char* precision : {"official", "exact"}) {  // the bytes are the same for all
    options_.precision = precision;
    const auto next = load();
    EXPECT_TRUE(next->is_mapped());
    EXPECT_EQ(packed_bytes(*next), bytes);
    EXPECT_EQ(next->weights_fingerprint(), fingerprint);
  }
  EXPECT_EQ(kept().size(), 1u);
}

TEST_F(WeightCacheTest, TheFingerprintIsOfTheContentAlone) {
  const uint64_t fingerprint = load()->weights_fingerprint();
  options_.threads = 1;
  fs::remove_all(directory_.path("packed"));
  EXPECT_EQ(load()->weights_fingerprint(), fingerprint);
  // The same weights in other files.
  fs::remove_all(model_);
  fs::create_directories(model_);
  ASSERT_TRUE(formats::write_random_model(model_, small_config(), int64_t{1} << 40).ok());
  EXPECT_EQ(load()->weights_fingerprint(), fingerprint);
  change_weights(shard());
  EXPECT_NE(load()->weights_fingerprint(), fingerprint);
}

TEST_F(WeightCacheTest, OtherWeightsOfTheSameSizeAndTimeAreNotTakenForThese) {
  const uint64_t fingerprint = load()->weights_fingerprint();
  ASSERT_EQ(kept().size(), 1u);
  const std::string file = shard();
  struct stat before {};
  ASSERT_EQ(::stat(file.c_str(), &before), 0);
  change_weights(file);
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, file.c_str(), times, 0), 0);
  const auto changed = load();
  EXPECT_FALSE(changed->is_mapped());
  EXPECT_NE(changed->weights_fingerprint(), fingerprint);
}

TEST_F(WeightCacheTest, ATornOrForeignFileIsRefusedAndMadeAnew) {
  const std::vector<std::byte> bytes = packed_bytes(*load());
  const std::string path = kept().at(0);
  const std::string image = *read_text_file(path);
  std::string foreign = image;
  foreign[200] = static_cast<char>(foreign[200] ^ 1);
  for (const std::string& wrong : {image.substr(0, image.size() - 4096), std::string(), foreign}) {
    ASSERT_TRUE(write_file_atomically(path, wrong).ok());
    {
      const auto loaded = load();
      EXPECT_FALSE(loaded->is_mapped());
      EXPECT_EQ(packed_bytes(*loaded), bytes);
    }
    EXPECT_EQ(*read_text_file(path), image);
    EXPECT_TRUE(load()->is_mapped());
  }
}

TEST_F(WeightCacheTest, TwoAtOnceAreSafe) {
  std::vector<std::thread> starts;
  std::vector<std::vector<std::byte>> bytes(4);
  for (std::vector<std::byte>& out : bytes)
    starts.emplace_back([&] { out = packed_bytes(*load()); });
  for (std::thread& start : starts) start.join();
  for (const std::vector<std::byte>& out : bytes) EXPECT_EQ(out, bytes[0]);
  EXPECT_EQ(kept().size(), 1u);
  const auto next = load();
  EXPECT_TRUE(next->is_mapped());
  EXPECT_EQ(packed_bytes(*next), bytes[0]);
}

TEST_F(WeightCacheTest, WithoutAPlaceTheWeightsArePackedInMemory) {
  std::ofstream(directory_.path("file")) << "in the way";
  const std::vector<std::byte> bytes = packed_bytes(*load());
  for (const WeightCacheOptions& none :
       {WeightCacheOptions{directory_.path("file") + "/packed", 1 << 30, 0},
        WeightCacheOptions{directory_.path("small"), 1 << 16, 0},
        WeightCacheOptions{directory_.path("off"), 0, 0},
        WeightCacheOptions{directory_.path("least"), 1 << 30, 1 << 30},
        WeightCacheOptions{"", 1 << 30, 0}}) {
    options_.weight_cache = none;
    const bool warns = none.max_bytes > 0 && none.min_bytes == 0 && !none.directory.empty();
    for (int start = 0; start < 2; ++start) {
      testing::internal::CaptureStderr();
      {
        const auto loaded = load();
        EXPECT_FALSE(loaded->is_mapped());
        EXPECT_EQ(packed_bytes(*loaded), bytes);
      }
      const std::string log = testing::internal::GetCapturedStderr();
      EXPECT_EQ(std::ranges::count(log, '\n'), warns ? 1 : 0) << log;
    }
  }
}

TEST_F(WeightCacheTest, ACheckpointThatChangesBeforeItsWeightsAreKeptIsNotKept) {
  {
    const auto loaded = load();
    change_weights(shard());
  }
  EXPECT_TRUE(kept().empty());
}

Result<std::unique_ptr<Engine>> random_engine(uint64_t seed) {
  const formats::ModelConfig config = small_config();
  EngineOptions options;
  options.model.threads = 1;
  options.cache_bytes = 32 << 20;
  auto model = LoadedModel::create(config, std::make_unique<model::RandomWeights>(config, seed),
                                   options.model);
  if (!model) return model.error();
  return Engine::create(*std::move(model), options);
}

TEST_F(WeightCacheTest, ASavedSequenceOfOtherWeightsIsRefused) {
  const std::string path = directory_.path("sequence");
  const auto first = random_engine(1), same = random_engine(1), other = random_engine(2);
  ASSERT_TRUE(first && same && other);
  const SequenceId sequence = *(*first)->open();
  Request request;
  request.prompt = {1, 2, 3};
  request.max_new_tokens = 2;
  ASSERT_TRUE((*first)->generate(sequence, request).has_value());
  ASSERT_TRUE((*first)->save(sequence, path).ok());
  EXPECT_TRUE((*same)->restore(path).has_value());
  const auto refused = (*other)->restore(path);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message().find("weights, configuration and precision"),
            std::string::npos)
      << refused.error().message();
}

}  // namespace
}  // namespace cachalot::engine
