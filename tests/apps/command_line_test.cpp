// What a person reads who asks for help or makes a slip.
#include <gtest/gtest.h>

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
  expect({"genrate", "x"}, "expected \"generate\"? found \"genrate\"");
  expect({"nothing-like-it"}, "expected one of generate, chat, ");
  expect({"data", "tokenise", "x"}, "data: expected \"tokenize\"? found \"tokenise\"");
  expect({"generate", "m", "--greddy"}, "generate: expected \"--greedy\"? found \"--greddy\"");
  expect({"generate", "--promt=x", "m"}, "expected \"--prompt\"? found \"--promt=x\"");
  expect({"generate", "m", "--max-tokens", "-1"},
         "--max-tokens: expected at least 0, found \"-1\"");
  expect({"generate", "m", "--threads", "-1"}, "not in range 0 to 1024");
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
