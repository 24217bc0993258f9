// From conversations to a run that the other verbs open.
#include <gtest/gtest.h>

#include <filesystem>

#include "apps/binary.h"
#include "base/file.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kQuick = {"--precision=fp32", "--schedule.batch.batch_tokens=256",
                                         "--schedule.batch.total_tokens=1024",
                                         "--evaluate.sample_tokens=4"};

std::string conversations() {
  std::string rows;
  for (int i = 0; i < 60; ++i) {
    const std::string number = std::to_string(i);
    rows += R"({"messages": [{"role": "user", "content": "Say )" + number +
            R"("}, {"role": "assistant", "content": ")" + number + "\"}]}\n";
  }
  const std::string path = scratch_path("talks.jsonl");
  EXPECT_TRUE(write_file_atomically(path, rows + "{\"messages\": []}\n").ok());
  return path;
}

Outcome sft(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"sft", model_directory()});
  arguments.insert(arguments.end(), kQuick.begin(), kQuick.end());
  return run_binary(arguments);
}

TEST(Sft, ConversationsBecomeARunThatOpens) {
  const std::string run = scratch_path("talks-run");
  const std::string rows = conversations();
  const Outcome outcome = sft({"--data", rows, "--run_dir=" + run});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* told : {"conversations 61 rows, 3 held out", "bad rows      1, left out",
                           ":61: messages: ", "samples       60, 0 of them thinking",
                           "validation/heldout", "sample: Say ", "trained    4 steps", " chat "}) {
    EXPECT_NE(outcome.out.find(told), std::string::npos) << told << "\n" << outcome.out;
  }
  // The run's directory is the model, which is talked with as its samples are.
  const Outcome talk = run_binary({"chat", run, "--max-tokens", "3"}, "Say 7\n");
  EXPECT_EQ(talk.exit_code, 0) << talk.err;
  const std::string defaults = read_text_file(run + "/generation_config.json").value();
  EXPECT_NE(defaults.find("\"effort\": \"none\""), std::string::npos) << defaults;
  // Another run does not begin in it.
  const Outcome again = sft({"--data", rows, "--run_dir=" + run});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_NE(again.err.find("/run.toml --resume goes on with it"), std::string::npos) << again.err;
}

TEST(Sft, WhatIsWrongIsSaidBeforeItBegins) {
  const std::string rows = conversations();
  const std::string run = scratch_path("no-run");
  const struct {
    std::vector<std::string> arguments;
    std::string told;
  } kCases[] = {
      {{"--data", rows, "--run_dir=" + run, "--no.such=1"}, "expected a known key"},
      {{"--data", scratch_path("none.jsonl"), "--run_dir=" + run}, "none.jsonl"},
      {{"--data", rows, "--run_dir=" + run, "--bad-rows", "0"}, ":61: messages: "},
      {{"--data", rows, "--run_dir=" + run, "--max-tokens", "3"}, "expected at most 10 % bad rows"},
      {{"--data", rows, "--run_dir=" + run, "--family", "v9"}, "prompt family"},
      {{"--data", rows, "--run_dir=" + run, "--model.preset=nano"}, "expected no model.preset"},
  };
  for (const auto& c : kCases) {
    const Outcome outcome = sft(c.arguments);
    EXPECT_EQ(outcome.exit_code, 2) << c.told;
    EXPECT_NE(outcome.err.find(c.told), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(run + "/data")) << c.told;
  }
}

}  // namespace
}  // namespace cachalot::apps
