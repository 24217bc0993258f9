// What a person reads who asks for help or makes a slip.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "apps/binary.h"

namespace cachalot::apps {
namespace {

// The names under "Subcommands:" of a help text.
std::vector<std::string> verbs_of(const std::string& help) {
  std::vector<std::string> names;
  std::istringstream lines(help.substr(std::min(help.find("Subcommands:"), help.size())));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line) && line.starts_with("  ")) {
    if (line[2] != ' ') names.push_back(line.substr(2, line.find(' ', 2) - 2));
  }
  return names;
}

void check_help(std::vector<std::string> verb) {
  verb.emplace_back("--help");
  const Outcome outcome = run_binary(verb);
  verb.pop_back();
  SCOPED_TRACE(verb.empty() ? "cachalot" : verb.back());
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_NE(outcome.out.find("Example: cachalot "), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find("00000000000000"), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find("=[]"), std::string::npos) << outcome.out;
  for (const std::string& name : verbs_of(outcome.out)) {
    verb.push_back(name);
    check_help(verb);
    verb.pop_back();
  }
}

TEST(CommandLine, EveryHelpHasAnExample) {
  EXPECT_GE(verbs_of(run_binary({"--help"}).out).size(), 12u);
  check_help({});
}

TEST(CommandLine, HelpTellsDefaults) {
  const std::string generate = run_binary({"generate", "--help"}).out;
  for (const char* option : {"--chunk INT in [1 - 1048576]=512", "--min-p FLOAT=0"})
    EXPECT_NE(generate.find(option), std::string::npos) << option << "\n" << generate;
  EXPECT_NE(run_binary({"data", "tokenize", "--help"}).out.find("=0.01"), std::string::npos);
}

TEST(CommandLine, ASlipIsAnsweredWithTheNearest) {
  const auto error = [](const std::vector<std::string>& arguments) {
    const Outcome outcome = run_binary(arguments);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_TRUE(outcome.err.starts_with("error: ")) << outcome.err;
    return outcome.err;
  };
  const auto expect = [&](const std::vector<std::string>& arguments, const std::string& told) {
    const std::string text = error(arguments);
    EXPECT_NE(text.find(told), std::string::npos) << text;
  };
  expect({"genrate", "x"}, "\"genrate\" is no verb; did you mean generate?");
  expect({"nothing-like-it"}, "expected one of generate, chat, ");
  expect({"data", "tokenise", "x"}, "data: \"tokenise\" is no verb; did you mean tokenize?");
  expect({"generate", "m", "--greddy"},
         "generate: \"--greddy\" is no option; did you mean --greedy?");
  expect({"generate", "--promt=x", "m"}, "\"--promt=x\" is no option; did you mean --prompt?");
  expect({}, "error: expected one of generate, chat, ");
  expect({"verify"}, "error: verify: expected one of golden, posttrain, found none");
  expect({"bench"}, "error: bench: expected one of ");
  expect({"convert", "a", "b", "--names", "wrong"},
         "--names: expected official or transformers, found \"wrong\"");
  expect({"generate", "m", "--max-tokens", "-1"},
         "--max-tokens: expected at least 0, found \"-1\"");
  expect({"generate", "m", "--temperature", "abc"},
         "error: --temperature: expected a number, found \"abc\" (cachalot generate --help");
  expect({"generate", "m", "--top-k", "1.5"},
         "error: --top-k: expected an integer, found \"1.5\" (cachalot generate --help");
  expect({"generate", "m", "--threads", "-1"}, "not in range 0 to 1024");
}

TEST(CommandLine, HelpIsAVerb) {
  EXPECT_EQ(run_binary({"help"}).out, run_binary({"--help"}).out);
  EXPECT_EQ(run_binary({"help", "data", "tokenize"}).out,
            run_binary({"data", "tokenize", "--help"}).out);
}

TEST(CommandLine, APathWithoutAModelIsNamedForWhatItIs) {
  namespace fs = std::filesystem;
  const std::string base = scratch_path("paths");
  fs::create_directories(base + "/empty");
  fs::create_directories(base + "/young/checkpoints");
  fs::create_directories(base + "/runs");
  fs::create_directory_symlink(model_directory(), base + "/runs/whale");
  const auto expect = [&](const std::string& path, const std::string& told) {
    for (const std::vector<std::string>& command : {std::vector<std::string>{"chat", path},
                                                    {"generate", path, "--prompt", "x"},
                                                    {"inspect", path},
                                                    {"tokenize", path, "--text", "x"},
                                                    {"convert", path, scratch_path("out")},
                                                    {"logits", path, "--ids", "x", "--out", "y"}}) {
      const Outcome outcome = run_binary(command);
      EXPECT_EQ(outcome.exit_code, 2);
      EXPECT_EQ(outcome.err, "error: " + path +
                                 ": expected a model's directory or a run of train, found " + told +
                                 "\n")
          << command.front();
    }
  };
  expect(base + "/nowhere", "no such path");
  expect(base + "/runs/whael", "no such path; did you mean " + base + "/runs/whale?");
  expect(base + "/empty", "a folder without a model (no config.json)");
  expect(base + "/young", "a run without a checkpoint yet");
  expect(base + "/runs", "a folder of them; name one: whale");
}

TEST(CommandLine, ErrorsBeginWithTheirObject) {
  const std::string nowhere = scratch_path("nowhere");
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"generate", nowhere, "--prompt", "x"},
        {"inspect", nowhere},
        {"convert", nowhere, scratch_path("out")},
        {"train", nowhere},
        {"tokenize", nowhere}}) {
    const Outcome outcome = run_binary(arguments);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_TRUE(outcome.err.starts_with("error: " + nowhere)) << outcome.err;
  }
}

}  // namespace
}  // namespace cachalot::apps
