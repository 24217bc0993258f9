// cachalot generate: what the engine promises holds at the command line, on a random model and on a
// trained one.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "apps/binary.h"
#include "base/file.h"
#include "base/test_data.h"

namespace cachalot::apps {
namespace {

constexpr int kTokens = 24;

const std::string& long_prompt() {
  static const std::string text = [] {
    std::string made;
    for (int i = 0; i < 25; ++i)
      made += "And the whale dived " + std::to_string(i * 37) + " fathoms; ";
    return made;
  }();
  return text;
}

std::vector<std::string> command(const std::vector<std::string>& extra, int max_tokens = kTokens) {
  std::vector<std::string> words = {
      "generate",     model_directory(),         "--json", "--ignore-eos", "--seed", "7",
      "--max-tokens", std::to_string(max_tokens)};
  words.insert(words.end(), extra.begin(), extra.end());
  return words;
}

std::vector<std::string> with_prompt(std::vector<std::string> extra) {
  extra.insert(extra.begin(), {"--prompt", long_prompt()});
  return command(extra);
}

std::vector<int64_t> undisturbed() {
  static const std::vector<int64_t> ids = ids_of(run_json(with_prompt({"--threads", "1"})));
  return ids;
}

TEST(Generate, ThreadsDoNotChangeTheText) {
  ASSERT_EQ(undisturbed().size(), static_cast<size_t>(kTokens));
  EXPECT_EQ(ids_of(run_json(with_prompt({"--threads", "2"}))), undisturbed());
}

TEST(Generate, ChunksDoNotChangeTheText) {
  for (const char* chunk : {"33", "100"})
    EXPECT_EQ(ids_of(run_json(with_prompt({"--chunk", chunk}))), undisturbed()) << chunk;
}

TEST(Generate, DraftsDoNotChangeTheText) {
  const json::object completion = run_json(with_prompt({"--drafts", "3"}));
  EXPECT_EQ(ids_of(completion), undisturbed());
  EXPECT_GT(completion.at("drafts").at("drafted").to_number<int64_t>(), 0);
}

TEST(Generate, SeedsReproduceAndDiffer) {
  EXPECT_EQ(ids_of(run_json(with_prompt({}))), undisturbed());
  std::vector<std::string> other = with_prompt({});
  *(std::find(other.begin(), other.end(), "--seed") + 1) = "8";
  EXPECT_NE(ids_of(run_json(other)), undisturbed());
}

TEST(Generate, ARestoredSequenceGoesOnAsIfNeverSaved) {
  constexpr int kFirst = 10;
  const std::string path = scratch_path("sequence.cache");
  const json::object first = run_json(command({"--prompt", long_prompt(), "--save", path}, kFirst));
  std::vector<int64_t> ids = ids_of(first);
  const std::vector<int64_t> rest =
      ids_of(run_json(command({"--restore", path}, kTokens - kFirst)));
  ids.insert(ids.end(), rest.begin(), rest.end());
  EXPECT_EQ(ids, undisturbed());
}

TEST(Generate, APromptReusesWhatARestoredSequenceSharesWithIt) {
  const std::string path = scratch_path("prompt.cache");
  run_json(command({"--prompt", long_prompt(), "--save", path}, 0));
  const json::object completion = run_json(with_prompt({"--restore", path}));
  EXPECT_EQ(ids_of(completion), undisturbed());
  const json::object& timings = completion.at("timings").as_object();
  EXPECT_EQ(timings.at("cached_tokens").to_number<int64_t>(),
            timings.at("prompt_tokens").to_number<int64_t>() - 1);
}

TEST(Generate, APromptIsFoundInAFolderThatKeepsPrefixes) {
  const std::string prompt = long_prompt() + long_prompt();
  const std::vector<std::string> plain = command({"--prompt", prompt});
  const std::vector<std::string> keeping =
      command({"--prompt", prompt, "--prefix-dir", scratch_path("prefixes")});
  const auto cached = [](const json::object& completion) {
    return completion.at("timings").as_object().at("cached_tokens").to_number<int64_t>();
  };
  const json::object first = run_json(keeping), second = run_json(keeping);
  EXPECT_EQ(cached(first), 0);
  EXPECT_GE(cached(second), 256);
  EXPECT_EQ(ids_of(first), ids_of(run_json(plain)));
  EXPECT_EQ(ids_of(second), ids_of(first));
}

// Where states are kept is an option; the text and what is found of the prompt do not depend on it.
TEST(Generate, StatesOfKeptPrefixesAreAsToldAndChangeNoText) {
  std::string prompt;
  for (int i = 0; i < 4; ++i) prompt += long_prompt();
  const std::vector<int64_t> expected = ids_of(run_json(command({"--prompt", prompt})));
  // "... N blocks, M states, ..." of cache list.
  const auto number_before = [](const std::string& text, const std::string& word) {
    const size_t end = text.find(" " + word), begin = text.rfind(' ', end - 1);
    return end == std::string::npos ? -1 : std::stoi(text.substr(begin, end - begin));
  };
  const std::vector<std::vector<std::string>> policies = {{"--prefix-states", "zero"},
                                                          {"--prefix-states", "full"},
                                                          {"--prefix-states", "periodic"},
                                                          {"--prefix-period", "256"}};
  for (size_t i = 0; i < policies.size(); ++i) {
    SCOPED_TRACE(policies[i].back());
    const std::string folder = scratch_path("states-" + std::to_string(i));
    std::vector<std::string> words = command({"--prompt", prompt, "--prefix-dir", folder});
    words.insert(words.end(), policies[i].begin(), policies[i].end());
    EXPECT_EQ(ids_of(run_json(words)), expected);
    const std::string kept = run_binary({"cache", "list", "--dir", folder}).out;
    const int blocks = number_before(kept, "blocks"), states = number_before(kept, "states");
    ASSERT_GE(blocks, 4) << kept;
    const std::string& policy = policies[i].back();
    EXPECT_EQ(states, policy == "zero" ? 0 : policy == "periodic" ? 1 : blocks) << kept;
    const json::object again = run_json(words);
    EXPECT_EQ(ids_of(again), expected);
    EXPECT_EQ(again.at("timings").as_object().at("cached_tokens").to_number<int64_t>(),
              256 * blocks);
  }
}

// reference/chat 4. The random model brings no settings of its own.
TEST(Generate, DefaultsAreTemperatureOneAndTheWholeDistribution) {
  EXPECT_EQ(ids_of(run_json(with_prompt({"--temperature", "1", "--top-p", "1"}))), undisturbed());
  EXPECT_NE(ids_of(run_json(with_prompt({"--temperature", "0.5"}))), undisturbed());
  EXPECT_NE(ids_of(run_json(with_prompt({"--top-p", "0.5"}))), undisturbed());
}

// Prompt and completion share the model's max_position_embeddings, to the token.
TEST(Generate, PromptAndCompletionShareTheContext) {
  constexpr int kContext = 4096, kNear = kContext - 4;
  std::string ids = "0";
  for (int i = 1; i < kNear; ++i) ids += "," + std::to_string(i % 2000 + 3);
  EXPECT_EQ(ids_of(run_json(command({"--prompt-ids", ids}, kContext - kNear))).size(), 4u);
  const Outcome over = run_binary(command({"--prompt-ids", ids}, kContext - kNear + 1));
  EXPECT_EQ(over.exit_code, 2);
  EXPECT_NE(over.err.find("context holds 4096"), std::string::npos) << over.err;
}

// Of the model, its configuration alone is read, and the weights are in the official layout.
TEST(Generate, WeightsMayBeMadeUp) {
  const std::string directory = scratch_path("made-up");
  std::filesystem::create_directories(directory);
  for (const char* name : {"/config.json", "/tokenizer.json"})
    std::filesystem::copy_file(test_data("../models/nano") + name, directory + name);
  const json::object answer = run_json({"generate", directory, "--random-weights", "--prompt",
                                        "The", "--ignore-eos", "--max-tokens", "3", "--json"});
  EXPECT_EQ(ids_of(answer).size(), 3u);
  EXPECT_EQ(run_binary({"generate", directory, "--prompt", "The"}).exit_code, 2);
}

TEST(Generate, ABannedTokenDoesNotCome) {
  const int64_t first = undisturbed().at(0);
  const std::vector<int64_t> ids =
      ids_of(run_json(with_prompt({"--logit-bias", std::to_string(first) + "=-inf"})));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), first), 0);
}

TEST(Generate, PlainOutputIsTheTextAlone) {
  const json::object completion = run_json(with_prompt({}));
  std::vector<std::string> words = with_prompt({});
  words.erase(std::find(words.begin(), words.end(), "--json"));
  const Outcome outcome = run_binary(words);
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, std::string(completion.at("text").as_string()));
  EXPECT_EQ(outcome.err.find('\033'), std::string::npos);
}

TEST(Generate, ErrorsAreOneLineAndExitWithTwo) {
  const std::vector<std::vector<std::string>> wrong = {
      {"generate", scratch_path("nothing-here"), "--prompt", "x"},
      {"generate", model_directory()},
      {"generate", model_directory(), "--prompt", "x", "--prompt-ids", "1"},
      {"generate", model_directory(), "--prompt", "x", "--max-tokens", "99999"},
      {"generate", model_directory(), "--prompt", "x", "--top-p", "0"},
      {"generate", model_directory(), "--prompt", "x", "--logit-bias", "7:1"},
      {"generate", model_directory(), "--prompt-ids", "0,2048"},
      {"generate", model_directory(), "--prompt", "x", "--restore",
       model_directory() + "/config.json"},
      {"generate", model_directory(), "--prompt", "x", "--device", "abacus"},
      {"no-such-verb"}};
  for (const std::vector<std::string>& arguments : wrong) {
    const Outcome outcome = run_binary(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments.back();
    EXPECT_TRUE(outcome.err.starts_with("error: ")) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
}

// The 48 greedy tokens of each prompt that transformers gives for a trained model.
TEST(Generate, ATrainedModelWritesWhatTransformersWrites) {
  const std::string nano = test_data("../models/nano");
  const Result<std::string> text = read_text_file(test_data("golden/nano/expected.json"));
  ASSERT_TRUE(text.has_value());
  const Result<json::value> expected = parse_json(*text, "expected.json");
  ASSERT_TRUE(expected.has_value());
  for (const json::value& prompt : expected->at("prompts").as_array()) {
    const std::string words(prompt.at("text").as_string());
    const json::object completion =
        run_json({"generate", nano, "--json", "--greedy", "--precision", "exact", "--max-tokens",
                  "48", "--ignore-eos", "--prompt", words});
    EXPECT_EQ(completion.at("prompt_ids"), prompt.at("ids")) << words;
    EXPECT_EQ(completion.at("ids"), prompt.at("greedy")) << words;
    EXPECT_EQ(completion.at("text"), prompt.at("greedy_text")) << words;
  }
}

// A model's generation_config.json decides how it samples, unless the command line does.
TEST(Generate, SamplesAsTheModelsConfigurationSays) {
  const std::string model = scratch_path("configured");
  std::filesystem::create_directories(model);
  for (const auto& entry : std::filesystem::directory_iterator(model_directory()))
    std::filesystem::create_symlink(entry.path(), model + "/" + entry.path().filename().string());
  const auto ids = [&](const std::string& config, const std::vector<std::string>& more) {
    EXPECT_TRUE(write_file_atomically(model + "/generation_config.json", config).ok());
    std::vector<std::string> arguments = {"generate",     model, "--prompt", "In",
                                          "--max-tokens", "12",  "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return ids_of(run_json(arguments));
  };
  const std::vector<int64_t> greedy = ids("{}", {"--greedy"});
  EXPECT_NE(ids("{}", {}), greedy);
  EXPECT_EQ(ids("{\"do_sample\": false, \"temperature\": 0.6}", {}), greedy);
  EXPECT_EQ(ids("{\"top_k\": 1}", {}), greedy);
  EXPECT_NE(ids("{\"do_sample\": false}", {"--temperature", "1"}), greedy);
  EXPECT_TRUE(write_file_atomically(model + "/generation_config.json", "{\"top_p\": 7}").ok());
  const Outcome wrong = run_binary({"generate", model, "--prompt", "In"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.err.find("generation_config.json: top_p: expected"), std::string::npos)
      << wrong.err;
}

// Sampled control tokens stand among the ids and nowhere in the text.
TEST(Generate, ControlTokensAreNoText) {
  const json::object found =
      run_json({"tokenize", model_directory(), "--json", "--text", "<｜User｜>"});
  ASSERT_EQ(ids_of(found).size(), 1u);
  const std::string id = std::to_string(ids_of(found)[0]);
  const json::object out = run_json({"generate", model_directory(), "--prompt", "In",
                                     "--max-tokens", "2", "--logit-bias", id + "=1e6", "--json"});
  EXPECT_EQ(ids_of(out), (std::vector<int64_t>(2, ids_of(found)[0])));
  EXPECT_EQ(out.at("text").as_string(), "");
}

}  // namespace
}  // namespace cachalot::apps
