// tokenize, logits and chat through pipes.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "apps/binary.h"
#include "base/file.h"
#include "base/test_data.h"
#include "formats/safetensors_writer.h"
#include "formats/test_checkpoint.h"

namespace cachalot::apps {
namespace {

TEST(Tokenize, DecodesWhatItEncodes) {
  const std::string text =
      "In the beginning was the Word; \xF0\x9F\x90\x8B \xE9\xAF\xA8 and\tnumbers 12345.\n";
  const json::object encoded = run_json({"tokenize", model_directory(), "--json", "--text", text});
  EXPECT_EQ(encoded.at("pieces").as_array().size(), ids_of(encoded).size());
  const Outcome ids =
      run_binary({"tokenize", model_directory() + "/tokenizer.json", "--ids"}, text);
  const Outcome decoded = run_binary({"tokenize", model_directory(), "--decode"}, ids.out);
  EXPECT_EQ(decoded.exit_code, 0) << decoded.err;
  EXPECT_EQ(decoded.out, text);
}

TEST(Tokenize, WrongIdsAreErrors) {
  for (const char* ids : {"1 two 3", "-5", "99999999999", "500000"}) {
    EXPECT_EQ(run_binary({"tokenize", model_directory(), "--decode", "--text", ids}).exit_code, 2)
        << ids;
  }
}

class Logits : public testing::Test {
 protected:
  static constexpr int64_t kBatch = 2;
  static constexpr int64_t kLength = 150;

  static std::string write_ids(const std::string& name, tensor::DType dtype,
                               const tensor::Shape& shape, int64_t limit) {
    std::vector<int64_t> ids(static_cast<size_t>(tensor::num_elements(shape)));
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int64_t>(i * 7919 % static_cast<size_t>(limit));
    const std::string path = scratch_path(name);
    const auto bytes = std::as_bytes(std::span(ids))
                           .first(ids.size() * static_cast<size_t>(tensor::dtype_bytes(dtype)));
    EXPECT_TRUE(formats::write_safetensors(path, {{"input_ids", dtype, shape}}, {bytes}).ok());
    return path;
  }
};

TEST_F(Logits, ChunksAndThreadsDoNotChangeAByte) {
  const std::string ids = write_ids("ids.safetensors", tensor::DType::i64, {kBatch, kLength}, 2048);
  const std::string whole = scratch_path("whole.safetensors");
  const std::string cut = scratch_path("cut.safetensors");
  const Outcome first =
      run_binary({"logits", model_directory(), "--ids", ids, "--out", whole, "--threads", "1"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const Outcome second = run_binary({"logits", model_directory(), "--ids", ids, "--out", cut,
                                     "--threads", "2", "--chunks", "100,1,1,7,41"});
  ASSERT_EQ(second.exit_code, 0) << second.err;
  const Result<std::string> a = read_text_file(whole);
  const Result<std::string> b = read_text_file(cut);
  ASSERT_TRUE(a.has_value() && b.has_value());
  EXPECT_GT(a->size(), static_cast<size_t>(kBatch * kLength * 2048 * 4));
  EXPECT_TRUE(*a == *b);
}

TEST_F(Logits, ErrorsNameWhatIsWrong) {
  const std::string good = write_ids("good.safetensors", tensor::DType::i64, {3}, 2048);
  const std::string large = write_ids("large.safetensors", tensor::DType::i64, {2, 3}, 1 << 20);
  const std::string floats = write_ids("floats.safetensors", tensor::DType::f32, {3}, 2048);
  const std::string empty = write_ids("empty.safetensors", tensor::DType::i64, {0}, 2048);
  const std::string out = scratch_path("out.safetensors");
  const auto error = [&](const std::string& ids, const std::string& chunks) {
    const Outcome outcome =
        run_binary({"logits", model_directory(), "--ids", ids, "--out", out, "--chunks", chunks});
    EXPECT_EQ(outcome.exit_code, 2);
    return outcome.err;
  };
  EXPECT_NE(error(good, "2,2").find("expected a sum of 3"), std::string::npos);
  EXPECT_NE(error(good, "3,-1,1").find("at least 1"), std::string::npos);
  EXPECT_NE(error(good, "9223372036854775807,9223372036854775807,5").find("expected a sum of 3"),
            std::string::npos);
  EXPECT_NE(error(large, "3").find("expected an id in [0, 2048)"), std::string::npos);
  EXPECT_NE(error(floats, "3").find("I32 or I64"), std::string::npos);
  EXPECT_NE(error(empty, "1").find("not empty"), std::string::npos);
  EXPECT_NE(error(model_directory() + "/model.safetensors", "1").find("input_ids"),
            std::string::npos);
}

// The first and the last row of the tables are rows; what lies beside them is not.
TEST_F(Logits, IdsOutsideTheVocabularyAreRefused) {
  for (const int64_t id : {-1, 0, 2047, 2048}) {
    const std::string path = scratch_path("id.safetensors");
    ASSERT_TRUE(formats::write_safetensors(path, {{"input_ids", tensor::DType::i64, {1}}},
                                           {std::as_bytes(std::span(&id, 1))})
                    .ok());
    const Outcome outcome = run_binary(
        {"logits", model_directory(), "--ids", path, "--out", scratch_path("id_out.safetensors")});
    EXPECT_EQ(outcome.exit_code, id == 0 || id == 2047 ? 0 : 2) << id << outcome.err;
    EXPECT_EQ(outcome.err.find(fmt::format("expected an id in [0, 2048), found {}", id)) !=
                  std::string::npos,
              id == -1 || id == 2048)
        << id << outcome.err;
  }
}

TEST(Chat, SpeaksPlainLinesThroughPipes) {
  const std::string saved = scratch_path("chat.json");
  const std::string input =
      "/effort "
      "none\nHello,\\\nwhale.\n\"\"\"\nTwo\nlines\n\"\"\"\n/undo\nAgain.\n/history\n/save " +
      saved + "\n/nonsense\n/load\n/file\n/exit\nnever read\n";
  const Outcome outcome =
      run_binary({"chat", model_directory(), "--max-tokens", "5", "--seed", "3"}, input);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  // A random model may say an Escape; only the program says sequences.
  EXPECT_EQ((outcome.out + outcome.err).find("\033["), std::string::npos);
  EXPECT_NE(outcome.err.find("error: no command /nonsense"), std::string::npos) << outcome.err;
  for (const char* name : {"/load", "/file"})
    EXPECT_NE(outcome.err.find(name + std::string(": expected a path, found none")),
              std::string::npos)
        << outcome.err;
  const Result<std::string> text = read_text_file(saved);
  ASSERT_TRUE(text.has_value());
  const Result<json::value> value = parse_json(*text, saved);
  ASSERT_TRUE(value.has_value());
  const json::array& messages = value->at("messages").as_array();
  ASSERT_EQ(messages.size(), 4u);
  EXPECT_EQ(messages[0].at("content").as_string(), "Hello,\nwhale.");
  EXPECT_EQ(messages[1].at("role").as_string(), "assistant");
  EXPECT_EQ(messages[2].at("content").as_string(), "Again.");
}

TEST(Chat, ANumberAsksAnExampleAtAnyTime) {
  const std::string model = scratch_path("with-examples");
  std::filesystem::copy(model_directory(), model);
  ASSERT_TRUE(
      write_file_atomically(model + "/examples.json", R"(["Sort 3, 1.", "Add 2 and 5."])").ok());
  const std::string saved = scratch_path("examples.json");
  const Outcome outcome =
      run_in_terminal({"chat", model, "--effort", "none", "--max-tokens", "2", "--seed", "3"},
                      "Hello.\r2\r7\r/save " + saved + "\r/exit\r");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out;
  for (const char* told : {"only\r\nsmall tasks like these; /clear begins anew", "at any time"})
    EXPECT_NE(outcome.out.find(told), std::string::npos) << told << outcome.out;
  const Result<std::string> text = read_text_file(saved);
  ASSERT_TRUE(text.has_value()) << outcome.out;
  const json::value value = parse_json(*text, saved).value();
  const json::array& messages = value.at("messages").as_array();
  ASSERT_EQ(messages.size(), 6u);
  EXPECT_EQ(messages[0].at("content").as_string(), "Hello.");
  EXPECT_EQ(messages[2].at("content").as_string(), "Add 2 and 5.");
  EXPECT_EQ(messages[4].at("content").as_string(), "7");  // names none
}

// What a turn answers must not depend on how much of it the cache still held.
// nano cannot think, nor end every answer of itself: its generation_config.json says so.
TEST(Chat, ABundledModelIsLedAsItsConfigurationSays) {
  const std::string nano = test_data("../models/nano");
  const Outcome chat = run_binary({"chat", nano, "--logit-bias", "1=-inf"}, "Hello\n/stats\n");
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_NE(chat.out.find("effort     none"), std::string::npos) << chat.out;
  EXPECT_NE(chat.err.find("[cut off after 256 tokens]"), std::string::npos) << chat.err;
  const auto prompt = [&](const std::vector<std::string>& effort) {
    std::vector<std::string> words = {"generate", nano,    "--json",       "--chat",
                                      "--prompt", "Hello", "--max-tokens", "1"};
    words.insert(words.end(), effort.begin(), effort.end());
    return run_json(words).at("prompt_ids").as_array();
  };
  EXPECT_EQ(prompt({}), prompt({"--effort", "none"}));
  EXPECT_NE(prompt({}), prompt({"--effort", "high"}));
}

TEST(Chat, AContinuedConversationEqualsALoadedOne) {
  const std::string half = scratch_path("half.json");
  const std::string direct = scratch_path("direct.json");
  const std::string loaded = scratch_path("loaded.json");
  const std::vector<std::string> command = {"chat", model_directory(), "--max-tokens",
                                            "12",   "--seed",          "3"};
  const Outcome first =
      run_binary(command, "One.\nTwo.\n/save " + half + "\nThree.\n/save " + direct + "\n");
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const Outcome second = run_binary(command, "/load " + half + "\nThree.\n/save " + loaded + "\n");
  ASSERT_EQ(second.exit_code, 0) << second.err;
  const Result<std::string> a = read_text_file(direct);
  const Result<std::string> b = read_text_file(loaded);
  ASSERT_TRUE(a.has_value() && b.has_value());
  EXPECT_EQ(*a, *b);
}

TEST(Inspect, ASlipOfAPresetIsTold) {
  const Outcome slip = run_binary({"inspect", "falsh"});
  EXPECT_NE(slip.exit_code, 0);
  EXPECT_NE(slip.err.find("did you mean flash?"), std::string::npos) << slip.err;
}

// Of another model's configuration, one line says what it is.
TEST(Inspect, AnotherModelIsOneLine) {
  const formats::TemporaryDirectory scratch("inspect");
  const std::string config = scratch.path("config.json");
  ASSERT_TRUE(write_file_atomically(config, R"({"model_type": "llama", "hidden_size": 64})").ok());
  const Outcome other = run_binary({"inspect", config});
  EXPECT_EQ(std::count(other.err.begin(), other.err.end(), '\n'), 1) << other.err;
  EXPECT_NE(other.err.find("expected deepseek_v4, found llama"), std::string::npos) << other.err;
}

TEST(Inspect, APresetNeedsNoFiles) {
  for (const std::string name : {"flash", "pro"}) {
    const Outcome preset = run_binary({"inspect", name});
    const Outcome published =
        run_binary({"inspect", test_data("formats/config/v4-" + name + ".json")});
    ASSERT_EQ(preset.exit_code, 0) << preset.err;
    ASSERT_EQ(published.exit_code, 0) << published.err;
    EXPECT_EQ(preset.out.substr(preset.out.find('\n')),
              published.out.substr(published.out.find('\n')));
  }
  // 159,609,485,896 bytes of weights, 3,514.25 a token and 15,495,168 of state
  const std::string flash = run_binary({"inspect", "flash"}).out;
  EXPECT_NE(flash.find("\n   1,048,576    159.61      3.68      0.02    163.31\n"),
            std::string::npos)
      << flash;
  // A small model's numbers are in smaller units.
  const std::string nano = run_binary({"inspect", "nano"}).out;
  EXPECT_NE(nano.find("memory       MB of one sequence"), std::string::npos) << nano;
  EXPECT_NE(nano.find("FLOPs        MFLOP per generated token"), std::string::npos) << nano;
}

// Its first turn is found in the folder, and the second one is the same without.
TEST(Chat, ALoadedConversationIsFoundAfterARestart) {
  std::string message = "Listen.";
  for (int i = 0; i < 60; ++i) message += " The whale dived " + std::to_string(i) + " fathoms.";
  const std::string half = scratch_path("kept-half.json");
  const std::vector<std::string> plain = {"chat", model_directory(), "--max-tokens",
                                          "5",    "--seed",          "3"};
  std::vector<std::string> keeping = plain;
  keeping.insert(keeping.end(), {"--prefix-dir", scratch_path("chat-prefixes")});
  ASSERT_EQ(run_binary(keeping, message + "\n/save " + half + "\n").exit_code, 0);
  const auto go_on = [&](const std::vector<std::string>& command, const std::string& path) {
    const Outcome outcome =
        run_binary(command, "/load " + half + "\nGo on.\n/stats\n/save " + path + "\n");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out + outcome.err;
  };
  const std::string with = scratch_path("kept-with.json"), without = scratch_path("kept-none.json");
  EXPECT_NE(go_on(plain, without).find(" tokens, 0 of them cached"), std::string::npos);
  const std::string found = go_on(keeping, with);
  EXPECT_NE(found.find(" of them cached"), std::string::npos) << found;
  EXPECT_EQ(found.find(" tokens, 0 of them cached"), std::string::npos) << found;
  EXPECT_EQ(read_text_file(with).value(), read_text_file(without).value());
}

TEST(Version, TellsTheCommitAndTheInstructionSets) {
  const Outcome outcome = run_binary({"--version"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(outcome.out.starts_with("cachalot ")) << outcome.out;
  const std::string before = " (commit ";
  const size_t at = outcome.out.find(before);
  ASSERT_NE(at, std::string::npos) << outcome.out;
  const std::string commit = outcome.out.substr(at + before.size(), 12);
  EXPECT_TRUE(commit.starts_with("unknown)") ||
              commit.find_first_not_of("0123456789abcdef") == std::string::npos)
      << outcome.out;
  EXPECT_NE(outcome.out.find("instruction sets of this machine: reference"), std::string::npos)
      << outcome.out;
}

}  // namespace
}  // namespace cachalot::apps
