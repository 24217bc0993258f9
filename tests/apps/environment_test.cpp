// What the environment may say, and what the binary answers to a value that it does not know.
#include <gtest/gtest.h>

#include "apps/binary.h"

namespace cachalot::apps {
namespace {

struct Case {
  const char* name;
  const char* value;
  const char* expected;
};

TEST(Environment, AnUnknownValueIsAnErrorBeforeAnythingStarts) {
  for (const Case& c : {Case{"CACHALOT_LOG", "verbose", "debug, info, warning, error"},
                        Case{"CACHALOT_THREADS", "3x", "a whole number from 0 to 1024"},
                        Case{"CACHALOT_ISA", "sse", "reference, avx2, avx512 or avx512bf16"}}) {
    const Outcome outcome =
        run_binary({"tokenize", model_directory(), "--text", "a"}, "", {{c.name, c.value}});
    EXPECT_EQ(outcome.exit_code, 2) << c.name;
    EXPECT_EQ(outcome.out, "") << c.name;
    for (const std::string text : {c.name, c.value, c.expected})
      EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
  }
}

TEST(Environment, AllUnknownValuesAreShownAtOnce) {
  const Outcome outcome = run_binary(
      {"--version"}, "", {{"CACHALOT_LOG", "x"}, {"CACHALOT_ISA", "y"}, {"CACHALOT_THREADS", "z"}});
  EXPECT_EQ(outcome.exit_code, 2);
  for (const char* text : {"\"x\"", "\"y\"", "\"z\""})
    EXPECT_NE(outcome.err.find(text), std::string::npos) << outcome.err;
}

TEST(Environment, KnownAndEmptyValuesAreTaken) {
  for (const char* value : {"", "debug", "error"})
    EXPECT_EQ(run_binary({"--version"}, "", {{"CACHALOT_LOG", value}}).exit_code, 0) << value;
}

}  // namespace
}  // namespace cachalot::apps
