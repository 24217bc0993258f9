// The verbs that run the forward, with --device cuda: nano's greedy text is the CPU's.
#include <gtest/gtest.h>

#include "apps/binary.h"
#include "base/test_data.h"
#include "device/gpu.h"

namespace cachalot::apps {
namespace {

class VerbsOnTheGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  }
  static std::vector<std::string> command(const std::string& verb, const char* device,
                                          const std::vector<std::string>& more) {
    std::vector<std::string> words = {verb, test_data("../models/nano"), "--greedy", "--device",
                                      device};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  // What it writes to standard output.
  static void expect_same(const std::string& verb, const std::vector<std::string>& more,
                          const std::string& input = "") {
    const Outcome expected = run_binary(command(verb, "cpu", more), input),
                  found = run_binary(command(verb, "cuda", more), input);
    EXPECT_EQ(expected.exit_code, 0) << expected.err;
    EXPECT_EQ(found.exit_code, 0) << found.err;
    EXPECT_GT(expected.out.size(), 20u);
    EXPECT_EQ(found.out, expected.out);
  }
};

TEST_F(VerbsOnTheGpu, GenerateWritesTheTextOfTheCpu) {
  expect_same("generate",
              {"--prompt", "The whale dived, and", "--max-tokens", "300", "--ignore-eos"});
}

TEST_F(VerbsOnTheGpu, ChatAnswersAsTheCpu) {
  expect_same("chat", {"--max-tokens", "60"}, "What is 12 + 30?\nSay it in words.\nSort 3 1 2.\n");
}

TEST_F(VerbsOnTheGpu, EvaluateJudgesTheAnswersOfTheCpu) {
  const std::vector<std::string> more = {"--json", "--count", "8", "--max-tokens", "60"};
  EXPECT_EQ(run_json(command("evaluate", "cuda", more)).at("tasks"),
            run_json(command("evaluate", "cpu", more)).at("tasks"));
}

TEST_F(VerbsOnTheGpu, ServeBeginsAndEnds) {
  const Outcome outcome =
      run_binary(command("serve", "cuda", {"--port", "0"}), "", {}, "", "serving nano at http");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

}  // namespace
}  // namespace cachalot::apps
