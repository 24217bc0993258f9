// Tasks as conversations: turns with tools are those of the whole conversation written at once.
#include "post/episode.h"

#include <gtest/gtest.h>

#include "base/test_data.h"
#include "data/tasks/task_document.h"

namespace cachalot::post {
namespace {

class EpisodeTest : public ::testing::Test {
 protected:
  static RlTask task(const std::string& family, int64_t draw) {
    return TaskSource::open({.name = family, .family = family}, 5).value().task(draw);
  }
  static data::Task written(data::TaskFamily family, int64_t draw) {
    return data::make_task(family, 0, 5, static_cast<uint64_t>(draw));
  }
  text::Tokenizer tokenizer_ =
      text::Tokenizer::load(test_data("../models/nano/tokenizer.json")).value();
  EpisodeFormat format_{.tokenizer = &tokenizer_};
};

void say(RolloutAnswer& answer, std::span<const int32_t> ids, bool is_sampled) {
  answer.ids.insert(answer.ids.end(), ids.begin(), ids.end());
  answer.is_sampled.insert(answer.is_sampled.end(), ids.size(), is_sampled);
}

TEST_F(EpisodeTest, ToolsAnswerAsInTheWholeConversation) {
  const int32_t eos = *tokenizer_.token_id("<｜end▁of▁sentence｜>");
  int64_t num_turns = 0;
  for (int64_t draw = 0; draw < 20; ++draw) {
    const Episode episode = Episode::create(format_, task("tools", draw), "none").value();
    const std::vector<int32_t> whole =
        data::task_document(tokenizer_, written(data::TaskFamily::tools, draw),
                            text::PromptFamily::v4, false)
            .value();
    const std::vector<int32_t>& prompt = episode.prompt();
    ASSERT_LT(prompt.size(), whole.size());
    ASSERT_TRUE(std::equal(prompt.begin(), prompt.end(), whole.begin()));
    RolloutAnswer answer;
    size_t at = prompt.size();
    while (true) {
      const auto end = std::find(whole.begin() + static_cast<ptrdiff_t>(at), whole.end(), eos) + 1;
      const auto count = static_cast<size_t>(end - whole.begin()) - at;
      say(answer, std::span(whole).subspan(at, count), true);
      at += count;
      const std::vector<int32_t> next = episode.next_turn(answer).value();
      ++num_turns;
      if (next.empty()) break;
      ASSERT_LE(at + next.size(), whole.size());
      ASSERT_TRUE(std::equal(next.begin(), next.end(), whole.begin() + static_cast<ptrdiff_t>(at)));
      say(answer, next, false);
      at += next.size();
    }
    EXPECT_EQ(at, whole.size());
    answer.end = AnswerEnd::stop;
    const Reward reward = episode.task().check(episode.reply(answer).value()).value();
    EXPECT_TRUE(reward.correct) << reward.why;
  }
  EXPECT_EQ(num_turns, 40);
}

TEST_F(EpisodeTest, ReasoningIsCountedAndNotShownToTheChecker) {
  const Episode episode = Episode::create(format_, task("arithmetic", 1), "high").value();
  RolloutAnswer answer;
  const std::vector<int32_t> thought = tokenizer_.encode("Answer: 1, or so?");
  say(answer, thought, true);
  EXPECT_EQ(episode.num_reasoning_tokens(answer), static_cast<int64_t>(thought.size()));
  EXPECT_EQ(episode.reply(answer).value().content, "");
  say(answer, tokenizer_.encode("</think>It is clear.\nAnswer: 7<｜end▁of▁sentence｜>"), true);
  EXPECT_EQ(episode.num_reasoning_tokens(answer), static_cast<int64_t>(thought.size()));
  EXPECT_EQ(episode.reply(answer).value().content, "It is clear.\nAnswer: 7");
  const Episode quick = Episode::create(format_, task("arithmetic", 1), "none").value();
  EXPECT_EQ(quick.num_reasoning_tokens(answer), 0);
}

TEST_F(EpisodeTest, RawAnswersEndWithoutTheirEnd) {
  format_.prompt = PromptFormat::raw;
  const Episode episode = Episode::create(format_, task("arithmetic", 1), "none").value();
  RolloutAnswer answer;
  say(answer, tokenizer_.encode("Answer: 7\n"), true);
  answer.end = AnswerEnd::stop;
  const std::string said = episode.reply(answer).value().content;
  EXPECT_TRUE(said.starts_with("Answer: 7")) << said;
  answer.end = AnswerEnd::length;
  EXPECT_EQ(episode.reply(answer).value().content, "Answer: 7\n");
}

}  // namespace
}  // namespace cachalot::post
