// cachalot serve as a program: it says where it serves, ends with a signal, refuses what it cannot.
#include <gtest/gtest.h>

#include <fstream>

#include "apps/binary.h"

namespace cachalot::apps {
namespace {

TEST(Serve, SaysWhereAndEndsWithASignal) {
  const Outcome outcome = run_binary(
      {"serve", model_directory(), "--port", "0", "--name", "tiny", "--prefix-states", "zero"}, "",
      {}, "", "serving tiny at http://127.0.0.1:");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
}

TEST(Serve, ErrorsNameWhatIsWrong) {
  const auto error_of = [](std::vector<std::string> more) {
    std::vector<std::string> words = {"serve", model_directory(), "--port", "0"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = run_binary(words);
    EXPECT_EQ(outcome.exit_code, 2);
    return outcome.err;
  };
  EXPECT_NE(error_of({"--allow-origin", "localhost"}).find("\"localhost\""), std::string::npos);
  EXPECT_NE(error_of({"--host", "no.such.host.invalid"}).find("\"no.such.host.invalid\""),
            std::string::npos);
  const std::string keys = scratch_path("serve-keys");
  EXPECT_NE(error_of({"--api-keys", keys}).find(keys), std::string::npos);
  std::ofstream(keys) << "sk-12345678 speed=9\n";
  EXPECT_NE(error_of({"--api-keys", keys}).find("\"speed=9\""), std::string::npos);
  EXPECT_NE(error_of({"--prefix-states", "some"}).find("some"), std::string::npos);
  EXPECT_NE(error_of({"--family", "v9"}).find("v9"), std::string::npos);
  EXPECT_EQ(run_binary({"serve", scratch_path("nowhere"), "--port", "0"}).exit_code, 2);
  EXPECT_EQ(run_binary({"serve", model_directory()}).exit_code, 2);
}

}  // namespace
}  // namespace cachalot::apps
