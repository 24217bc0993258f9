// The cache under calls: what an answer says does not depend on what was kept, in memory or on
// disk, and scoring a text whole gives what answering it token by token gave.
// Source  reference/infrastructure 8.1, 8.2: V1, O1, O5.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "api/api_testing.h"
#include "base/python_json.h"

namespace cachalot::api {
namespace {

using cache::StatePolicy;
using cache::StateStrategy;
using testing::at;
using testing::parsed;
using testing::text_at;
using testing::TinyServer;

class CachedCalls : public ::testing::TestWithParam<StateStrategy> {
 protected:
  CachedCalls()
      : folder_(std::filesystem::temp_directory_path() /
                ("cachalot-calls-" + std::to_string(getpid()) + "-" +
                 std::to_string(static_cast<int>(GetParam())))) {}
  ~CachedCalls() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<TinyServer> server(uint64_t weights_version = 1) const {
    return std::make_unique<TinyServer>(
        testing::served_options(), [&](engine::EngineOptions& options) {
          options.prefix_cache->states = {GetParam(), 64};
          options.prefix_cache->directory = folder_.string();
          options.prefix_cache->max_disk_bytes = int64_t{64} << 20;
          options.weights_version = static_cast<int64_t>(weights_version);
        });
  }

 private:
  std::filesystem::path folder_;
};

std::string body_of(int64_t length, std::string_view more = "") {
  std::string ids;
  for (int64_t i = 0; i < length; ++i)
    ids += (i == 0 ? "" : ", ") + std::to_string(3 + i * i * 7 % 4000);
  return "{\"prompt\": [" + ids + "], \"max_tokens\": 9, \"temperature\": 1, \"seed\": 4, " +
         "\"logprobs\": 3" + std::string(more) + "}";
}
json::value completion(TinyServer& server, const std::string& body) {
  return parsed(server.post("/v1/completions", body));
}
int64_t cached(const json::value& answer) {
  return at(answer, "usage/prompt_tokens_details/cached_tokens").as_int64();
}

TEST_P(CachedCalls, SayWhatACallAloneSays) {
  for (const int64_t length : {1, 7, 8, 9, 127, 128, 129, 600}) {
    TinyServer alone(testing::served_options(),
                     [](engine::EngineOptions& options) { options.prefix_cache.reset(); });
    const json::value expected = completion(alone, body_of(length));
    ASSERT_FALSE(text_at(expected, "choices/0/text").empty()) << python_json(expected);
    auto first = server();
    EXPECT_EQ(at(completion(*first, body_of(length)), "choices"), at(expected, "choices"));
    const json::value again = completion(*first, body_of(length));
    EXPECT_EQ(at(again, "choices"), at(expected, "choices")) << length;
    EXPECT_EQ(at(again, "usage/prompt_tokens"), json::value(length));
    EXPECT_EQ(cached(again) > 0, length > 8) << length;
    first.reset();
    auto restarted = server();
    const json::value from_disk = completion(*restarted, body_of(length));
    EXPECT_EQ(at(from_disk, "choices"), at(expected, "choices")) << length;
    EXPECT_EQ(cached(from_disk) > 0, length > 8) << length;
    EXPECT_LT(cached(from_disk), length);
  }
}

TEST_P(CachedCalls, AHitNeedsTheSameTokensAndTheSameModel) {
  auto first = server();
  completion(*first, body_of(100));
  EXPECT_GT(cached(completion(*first, body_of(100))), 0);
  EXPECT_EQ(cached(completion(*first, body_of(100, ", \"cache_salt\": \"other\""))), 0);
  std::string other = body_of(100);
  other.replace(other.find("[3, "), 4, "[9, ");
  EXPECT_EQ(cached(completion(*first, other)), 0);
  first.reset();
  EXPECT_EQ(cached(completion(*server(2), body_of(100))), 0);
}

INSTANTIATE_TEST_SUITE_P(Strategies, CachedCalls,
                         ::testing::Values(StateStrategy::full, StateStrategy::periodic,
                                           StateStrategy::zero));

TEST(CallsTokenByToken, ScoreAsTheWholeTextDoes) {
  TinyServer server;
  // Letters alone, so that the tokens' texts say which they are.
  const json::value answer = completion(
      server,
      R"({"prompt": [0, 100, 200], "max_tokens": 300, "temperature": 1, "seed": 2, "logprobs": 0,
          "structured_outputs": {"regex": "[a-z ]{1500,}"}})");
  const json::array tokens = at(answer, "choices/0/logprobs/tokens").get_array();
  const json::array scores = at(answer, "choices/0/logprobs/token_logprobs").get_array();
  ASSERT_EQ(tokens.size(), 300u) << python_json(answer).substr(0, 400);
  std::map<std::string, int32_t> ids;
  for (int32_t id = 0; id < 4096; ++id) {
    if (const auto text = testing::nano_tokenizer().decode(std::span(&id, 1))) ids[*text] = id;
  }
  std::string prompt = "0, 100, 200";
  for (const json::value& token : tokens)
    prompt += ", " + std::to_string(ids.at(std::string(std::string_view(token.get_string()))));
  for (const char* salt : {"", ", \"cache_salt\": \"new\""}) {
    const json::value whole = completion(
        server, "{\"prompt\": [" + prompt +
                    "], \"max_tokens\": 0, \"echo\": true, \"logprobs\": 0" + salt + "}");
    const json::array all = at(whole, "choices/0/logprobs/token_logprobs").get_array();
    ASSERT_EQ(all.size(), 303u);
    for (size_t i = 0; i < 300; ++i) ASSERT_EQ(all[i + 3], scores[i]) << i;
  }
}

}  // namespace
}  // namespace cachalot::api
