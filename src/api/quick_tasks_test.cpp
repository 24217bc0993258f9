// Quick instructions on one conversation (reference/post-training 6), as chat requests.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "api/api_testing.h"

namespace cachalot::api {
namespace {

using testing::post;
using testing::TinyServer;

constexpr std::array kTasks = {"query", "authority", "domain"};

// What the API asks of the engine for a task after a conversation.
engine::Request task_request(const ServedModel& model, std::string_view task) {
  std::string text;
  for (int i = 0; i < 30; ++i) text += "hot springs of the world, ";
  Routed routed = route(post("/v1/chat/completions",
                             R"({"temperature": 1, "seed": 5, "max_tokens": 6, "logprobs": true,
                                 "top_logprobs": 5, "messages": [{"role": "user", "content": ")" +
                                 text + R"(", "task": ")" + std::string(task) + "\"}]}"),
                        model);
  return std::move(std::get<std::unique_ptr<Call>>(routed)->take_requests().at(0));
}

struct Told {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  std::vector<std::pair<int32_t, double>> top;
  bool operator==(const Told&) const = default;
};

// All of them at once.
std::vector<Told> run(TinyServer& server, std::vector<engine::Request> requests) {
  std::vector<Told> told(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].on_event = [&one = told[i]](const engine::Event& event) {
      if (event.kind != engine::Event::Kind::token) return true;
      one.ids.push_back(event.token);
      one.logprobs.push_back(event.model_logprob);
      for (const ops::TokenLogprob& likely : event.top)
        one.top.emplace_back(likely.id, likely.logprob);
      return true;
    };
    EXPECT_TRUE(server.engine().submit(std::move(requests[i])).has_value());
  }
  while (server.engine().step()) {
  }
  return told;
}

TEST(QuickTasks, ForkTheCacheSoThatThePromptRunsOnce) {
  TinyServer server;
  engine::Engine& engine = server.engine();
  std::vector<engine::Request> requests;
  for (const char* task : kTasks) requests.push_back(task_request(server.model(), task));
  // They have all but the task's token in common.
  const std::vector<int32_t> shared(requests[0].prompt.begin(), requests[0].prompt.end() - 1);
  ASSERT_GT(shared.size(), 100u);
  const engine::SequenceId conversation = engine.open().value();
  engine::Request prompt;
  prompt.prompt = shared;
  prompt.max_new_tokens = 0;
  ASSERT_TRUE(engine.generate(conversation, std::move(prompt)).has_value());
  // The last row, whose logits nobody has asked for, belongs to what comes next.
  const auto held = static_cast<int64_t>(shared.size()) - 1;
  ASSERT_EQ(engine.num_cached(conversation), held);
  for (engine::Request& request : requests) {
    ASSERT_EQ(request.prompt.size(), shared.size() + 1);
    ASSERT_TRUE(std::equal(shared.begin(), shared.end(), request.prompt.begin()));
    const engine::SequenceId fork = engine.fork(conversation).value();
    request.prompt = {request.prompt.back()};
    request.max_new_tokens = 1;
    ASSERT_TRUE(engine.generate(fork, std::move(request)).has_value());
  }
  EXPECT_EQ(engine.counts().rows, held + static_cast<int64_t>(2 * kTasks.size()));
}

TEST(QuickTasks, TogetherHaveTheBitsOfEachAlone) {
  TinyServer server;
  std::vector<engine::Request> requests;
  for (const char* task : kTasks) requests.push_back(task_request(server.model(), task));
  const std::vector<Told> together = run(server, std::move(requests));
  for (size_t i = 0; i < kTasks.size(); ++i) {
    TinyServer fresh;
    std::vector<engine::Request> one;
    one.push_back(task_request(fresh.model(), kTasks[i]));
    EXPECT_EQ(together[i], run(fresh, std::move(one))[0]) << kTasks[i];
    EXPECT_EQ(together[i].top.size(), 5 * together[i].ids.size());
    EXPECT_FALSE(together[i].ids.empty());
  }
}

}  // namespace
}  // namespace cachalot::api
