// What other writers make and people do by accident, at the command line.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <utility>

#include "apps/binary.h"
#include "base/file.h"
#include "formats/config.h"
#include "formats/json_text.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

std::string tokens(int count) {
  std::string ids = "0";
  for (int i = 1; i < count; ++i) ids += "," + std::to_string(i * 37 % 2048);
  return ids;
}

// A model directory that shares its weights with the random one.
std::string model_with(const std::string& name, const formats::ModelConfig& config) {
  const std::string directory = scratch_path(name);
  fs::create_directories(directory);
  for (const char* file : {"model.safetensors", "tokenizer.json"})
    fs::create_symlink(model_directory() + "/" + file, directory + "/" + file);
  EXPECT_TRUE(write_file_atomically(directory + "/config.json",
                                    formats::to_pretty_json(formats::to_json(config)))
                  .ok());
  return directory;
}

json::object greedy(const std::string& model, const std::vector<std::string>& extra) {
  std::vector<std::string> words = {"generate", model, "--json", "--greedy"};
  words.insert(words.end(), extra.begin(), extra.end());
  return run_json(words);
}

TEST(OddInputs, TheDefaultAnswerIsWhatTheContextLeaves) {
  const json::object answer =
      greedy(model_directory(), {"--prompt-ids", tokens(20), "--context", "80", "--ignore-eos"});
  EXPECT_EQ(ids_of(answer).size(), 60u);
  for (const auto& [prompt, more] :
       {std::pair(81, std::string()), {80, std::string()}, {70, std::string("11")}}) {
    std::vector<std::string> words = {"generate",     model_directory(), "--prompt-ids",
                                      tokens(prompt), "--context",       "80"};
    if (!more.empty()) words.insert(words.end(), {"--max-tokens", more});
    const Outcome outcome = run_binary(words);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_NE(outcome.err.find("the prompt has " + std::to_string(prompt) + " tokens"),
              std::string::npos)
        << outcome.err;
    EXPECT_NE(outcome.err.find("the context holds 80"), std::string::npos) << outcome.err;
  }
}

TEST(OddInputs, ASequenceThatFillsItsContextIsSavedWhole) {
  const std::string path = scratch_path("full.cache");
  const json::object all =
      greedy(model_directory(), {"--prompt-ids", tokens(60), "--context", "64", "--max-tokens", "4",
                                 "--ignore-eos", "--save", path});
  const json::object restored = greedy(model_directory(), {"--restore", path, "--max-tokens", "0"});
  const json::array& ids = restored.at("prompt_ids").as_array();
  ASSERT_EQ(ids.size(), 64u);
  EXPECT_EQ(ids.back(), all.at("ids").as_array().back());
}

TEST(OddInputs, GreedyLogProbabilitiesAreTheModelsOwn) {
  const std::vector<std::string> request = {"--prompt-ids", tokens(20), "--max-tokens", "8",
                                            "--ignore-eos"};
  const json::object answer = greedy(model_directory(), request);
  for (const json::value& value : answer.at("logprobs").as_array()) {
    EXPECT_LT(value.to_number<double>(), 0.0);
    EXPECT_GT(value.to_number<double>(), -std::log(2048.0));  // the best of so many
  }
}

TEST(OddInputs, AnyEndTokenEndsTheText) {
  const std::vector<std::string> request = {"--prompt-ids", tokens(20), "--max-tokens", "12"};
  std::vector<std::string> unstopped = request;
  unstopped.push_back("--ignore-eos");
  const std::vector<int64_t> ids = ids_of(greedy(model_directory(), unstopped));
  ASSERT_EQ(ids.size(), 12u);
  const auto expect_stop_before = [&](const std::string& model, int64_t end) {
    const json::object answer = greedy(model, request);
    const auto at = static_cast<size_t>(std::find(ids.begin(), ids.end(), end) - ids.begin());
    EXPECT_EQ(answer.at("finish").as_string(), "stop");
    EXPECT_EQ(ids_of(answer), std::vector<int64_t>(ids.begin(), ids.begin() + at));
  };
  formats::ModelConfig config = formats::load_config(model_directory()).value();
  config.eos_token_id = {1, ids[5]};
  expect_stop_before(model_with("two-ends", config), ids[5]);
  config.eos_token_id = {1};
  const std::string model = model_with("generation-config", config);
  const std::string settings = "{\"eos_token_id\": [1, " + std::to_string(ids[3]) + "]}";
  ASSERT_TRUE(write_file_atomically(model + "/generation_config.json", settings).ok());
  expect_stop_before(model, ids[3]);
}

// The random model's tokenizer, its begin and end in the places of two other control tokens.
std::string tokenizer_with_ends_elsewhere() {
  const Result<std::string> text = read_text_file(model_directory() + "/tokenizer.json");
  json::value document = *parse_json(*text, "tokenizer.json");
  json::array& added = document.at("added_tokens").as_array();
  json::object& vocabulary = document.at("model").at("vocab").as_object();
  for (const auto& [a, b] : {std::pair(0, 3), {1, 4}}) {
    std::swap(added[a].at("content"), added[b].at("content"));
    for (const int id : {a, b}) vocabulary[added[id].at("content").as_string()] = id;
  }
  const std::string path = scratch_path("ends-elsewhere.json");
  EXPECT_TRUE(write_file_atomically(path, formats::to_pretty_json(document)).ok());
  return path;
}

TEST(OddInputs, BeginAndEndAreTheTokenizersOwn) {
  const std::string text = scratch_path("ends.jsonl"), prefix = scratch_path("ends");
  ASSERT_TRUE(write_file_atomically(text, "{\"text\": \"the whale\"}\n").ok());
  const std::string tokenizer = tokenizer_with_ends_elsewhere();
  const Outcome outcome =
      run_binary({"data", "tokenize", text, "--tokenizer", tokenizer, "--out", prefix});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::vector<int64_t> ids =
      ids_of(run_json({"tokenize", tokenizer, "--json", "--text", "the whale"}));
  ids.insert(ids.begin(), 3);
  ids.push_back(4);
  constexpr size_t kHeaderBytes = 64;  // docs/formats/token_shard.md
  std::string expected;
  for (const int64_t id : ids) expected += {static_cast<char>(id), static_cast<char>(id >> 8)};
  const Result<std::string> shard = read_text_file(prefix + "-00000.tokens");
  ASSERT_TRUE(shard.has_value());
  EXPECT_EQ(shard->substr(kHeaderBytes, expected.size()), expected);

  ids.pop_back();
  const json::object answer = greedy(
      model_directory(), {"--tokenizer", tokenizer, "--prompt", "the whale", "--max-tokens", "0"});
  EXPECT_EQ(answer.at("prompt_ids"), json::value(json::array(ids.begin(), ids.end())));
}

TEST(OddInputs, JsonLinesUnderAnyNameAndOddLines) {
  const std::string lines =
      "\xEF\xBB\xBF{\"text\": \"one whale\", \"score\": NaN}\n{\"text\": \"two\"}\n";
  const std::string path = scratch_path("lines.txt"), prefix = scratch_path("lines");
  const auto tokenize = [&](const std::string& text, std::vector<std::string> more) {
    EXPECT_TRUE(write_file_atomically(path, text).ok());
    more.insert(more.begin(),
                {"data", "tokenize", path, "--tokenizer", model_directory(), "--out", prefix});
    return run_binary(more);
  };
  EXPECT_NE(tokenize(lines, {}).out.find("2 documents"), std::string::npos);
  EXPECT_NE(tokenize(lines, {"--format", "text"}).out.find("1 documents"), std::string::npos);
  const std::string bad = lines + "{\"text\": null}\n";
  EXPECT_EQ(tokenize(bad, {}).exit_code, 2);
  const Outcome skipped = tokenize(bad, {"--skip-bad-lines"});
  EXPECT_NE(skipped.out.find("2 documents"), std::string::npos);
  EXPECT_NE(skipped.err.find("1 bad lines skipped"), std::string::npos) << skipped.err;
  EXPECT_NE(skipped.err.find("lines.txt: line 3"), std::string::npos) << skipped.err;
  const Outcome nothing = tokenize("", {});
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_NE(nothing.err.find("expected documents, found none"), std::string::npos) << nothing.err;
  EXPECT_EQ(run_binary({"data", "tokenizer", path, "--out", prefix}).exit_code, 2);
}

TEST(OddInputs, AByteOrderMarkIsNotPartOfAPrompt) {
  const std::string path = scratch_path("prompt.txt");
  ASSERT_TRUE(write_file_atomically(path, "\xEF\xBB\xBFThe whale").ok());
  const json::object plain =
      greedy(model_directory(), {"--prompt", "The whale", "--max-tokens", "1"});
  const json::object marked =
      greedy(model_directory(), {"--prompt-file", path, "--max-tokens", "1"});
  EXPECT_EQ(marked.at("prompt_ids"), plain.at("prompt_ids"));
}

// What cannot be written has not been done.
TEST(OddInputs, AFullStandardOutputIsAnError) {
  const std::string full = "/dev/full";
  if (!fs::is_character_file(full)) GTEST_SKIP() << full << " is not here";
  const std::vector<std::vector<std::string>> verbs = {
      {"--version"},
      {"--help"},
      {"generate", "--help"},
      {"generate", model_directory(), "--prompt", "x", "--max-tokens", "2"},
      {"generate", model_directory(), "--prompt", "x", "--max-tokens", "2", "--json"},
      {"tokenize", model_directory(), "--text", "x"},
      {"inspect", model_directory()}};
  for (const std::vector<std::string>& arguments : verbs) {
    const Outcome outcome = run_binary(arguments, "", {}, full);
    EXPECT_EQ(outcome.exit_code, 2) << arguments[0];
    EXPECT_NE(outcome.err.find("No space left"), std::string::npos)
        << arguments[0] << ": " << outcome.err;
    EXPECT_EQ(run_binary(arguments).exit_code, 0) << arguments[0];
  }
}

}  // namespace
}  // namespace cachalot::apps
