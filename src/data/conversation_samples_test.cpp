#include "data/conversation_samples.h"

#include <gtest/gtest.h>

#include "base/test_data.h"
#include "text/prompt_ids.h"

namespace cachalot::data {
namespace {

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer =
      *text::Tokenizer::load(test_data("../models/nano/tokenizer.json"));
  return kTokenizer;
}

Result<std::vector<ConversationSample>> read(std::string_view row,
                                             const ConversationOptions& options = {}) {
  return conversation_samples(tokenizer(), *parse_json(row, "row"), options);
}

std::vector<ConversationSample> samples(std::string_view row,
                                        const ConversationOptions& options = {}) {
  const auto made = read(row, options);
  EXPECT_TRUE(made.has_value()) << made.error().message();
  return made ? *made : std::vector<ConversationSample>();
}

std::string whole(const ConversationSample& sample) { return *tokenizer().decode(sample.ids); }

// Its targets, a "|" where others lie between.
std::string learnt(const ConversationSample& sample) {
  std::string out;
  for (size_t i = 0; i < sample.ids.size(); ++i) {
    if (sample.weights[i] == 0) continue;
    if (!out.empty() && sample.weights[i - 1] == 0) out += "|";
    out += *tokenizer().token_bytes(sample.ids[i]);
  }
  return out;
}

constexpr char kTwoTurns[] = R"({"messages": [{"role": "system", "content": "Be kind."},
  {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
  {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you."}]})";

TEST(ConversationSamples, LearnWhatTheAssistantSaysAlone) {
  const auto made = samples(kTwoTurns);
  ASSERT_EQ(made.size(), 1U);
  EXPECT_FALSE(made[0].thinking);
  EXPECT_EQ(
      whole(made[0]),
      "<｜begin▁of▁sentence｜>Be kind.<｜User｜>Hi<｜Assistant｜></think>Hello."
      "<｜end▁of▁sentence｜><｜User｜>Bye<｜Assistant｜></think>See you.<｜end▁of▁sentence｜>");
  EXPECT_EQ(learnt(made[0]), "Hello.<｜end▁of▁sentence｜>|See you.<｜end▁of▁sentence｜>");
}

// What is learnt is cut into tokens alone, the prompt around it too: together they are what chat
// sends.
TEST(ConversationSamples, HaveThePromptsThatChatSends) {
  const auto made = samples(kTwoTurns);
  json::value row = *parse_json(kTwoTurns, "row");
  row.as_object()["messages"].as_array().pop_back();
  text::ChatStyle style;
  style.thinking = false;
  const auto prompt = text::chat_prompt(tokenizer(), *text::parse_chat_request(row), style);
  ASSERT_TRUE(prompt.has_value());
  ASSERT_LT(prompt->ids.size(), made[0].ids.size());
  EXPECT_TRUE(std::equal(prompt->ids.begin(), prompt->ids.end(), made[0].ids.begin()));
  for (size_t i = prompt->ids.size(); i < made[0].ids.size(); ++i)
    EXPECT_EQ(made[0].weights[i], 1) << i;
}

constexpr char kThinkingTurns[] = R"({"messages": [
  {"role": "user", "content": "1+1"}, {"role": "assistant", "reasoning_content": "easy", "content": "2"},
  {"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"},
  {"role": "user", "content": "3+3"}, {"role": "assistant", "reasoning_content": "add", "content": "6"}]})";

TEST(ConversationSamples, OfAThinkingConversationAreOneATurn) {
  const auto made = samples(kThinkingTurns);
  ASSERT_EQ(made.size(), 3U);
  EXPECT_EQ(whole(made[0]),
            "<｜begin▁of▁sentence｜><｜User｜>1+1<｜Assistant｜><think>easy</"
            "think>2<｜end▁of▁sentence｜>");
  EXPECT_EQ(learnt(made[0]), "easy</think>2<｜end▁of▁sentence｜>");
  // An answer without reasoning does not think; reasoning of earlier turns is gone.
  EXPECT_EQ(whole(made[1]),
            "<｜begin▁of▁sentence｜><｜User｜>1+1<｜Assistant｜></think>2<｜end▁of▁sentence｜>"
            "<｜User｜>2+2<｜Assistant｜></think>4<｜end▁of▁sentence｜>");
  EXPECT_EQ(learnt(made[1]), "4<｜end▁of▁sentence｜>");
  EXPECT_FALSE(made[1].thinking);
  EXPECT_EQ(learnt(made[2]), "add</think>6<｜end▁of▁sentence｜>");
  EXPECT_TRUE(made[2].thinking);
  EXPECT_EQ(whole(made[2]).find("easy"), std::string::npos);
}

TEST(ConversationSamples, WithToolsKeepAllReasoningInOne) {
  const auto made = samples(R"({"tools": [{"type": "function", "function": {"name": "add"}}],
    "messages": [{"role": "user", "content": "1+1"},
    {"role": "assistant", "reasoning": "a tool", "tool_calls": [{"id": "c", "type": "function",
      "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
    {"role": "tool", "tool_call_id": "c", "content": "2 </think>"},
    {"role": "assistant", "reasoning": "so 2", "content": "2"},
    {"role": "user", "content": "Thanks"}, {"role": "assistant", "content": "Welcome"}]})");
  ASSERT_EQ(made.size(), 1U);
  EXPECT_EQ(learnt(made[0]),
            "a tool</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"add\">\n"
            "<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>\n"
            "</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>|"
            "so 2</think>2<｜end▁of▁sentence｜>|</think>Welcome<｜end▁of▁sentence｜>");
}

TEST(ConversationSamples, EffortsComeFromTheRowElseTheOptions) {
  const std::string turns = R"("messages": [{"role": "user", "content": "1+1"},
    {"role": "assistant", "reasoning_content": "easy", "content": "2"}])";
  const auto max = samples(R"({"effort": "max", )" + turns + "}");
  ASSERT_EQ(max.size(), 1U);
  EXPECT_NE(whole(max[0]).find("Reasoning Effort: Absolute maximum"), std::string::npos);
  EXPECT_EQ(learnt(max[0]), "easy</think>2<｜end▁of▁sentence｜>");
  const auto none = samples(R"({"reasoning_effort": "none", )" + turns + "}", {.effort = "max"});
  ASSERT_EQ(none.size(), 1U);
  EXPECT_EQ(learnt(none[0]), "2<｜end▁of▁sentence｜>");
  // Asked for, it holds for answers without reasoning too.
  const auto high = samples(kThinkingTurns, {.effort = "high"});
  ASSERT_EQ(high.size(), 3U);
  EXPECT_EQ(learnt(high[1]), "</think>4<｜end▁of▁sentence｜>");
}

TEST(ConversationSamples, WeighRowsAndMessages) {
  const std::string turns = R"("messages": [{"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello.", "weight": 0}, {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you.", "weight": 0.5}])";
  const auto made = samples(R"({"weight": 3, )" + turns + "}");
  ASSERT_EQ(made.size(), 1U);
  EXPECT_EQ(learnt(made[0]), "See you.<｜end▁of▁sentence｜>");
  for (const float weight : made[0].weights) EXPECT_TRUE(weight == 0 || weight == 1.5f);
  const auto by_sample = samples(R"({"weight": 3, )" + turns + "}", {.mean = TargetMean::samples});
  double sum = 0;
  for (const float weight : by_sample[0].weights) sum += weight;
  EXPECT_NEAR(sum, 3, 1e-6);
  EXPECT_TRUE(samples(R"({"weight": 0, )" + turns + "}").empty());
}

TEST(ConversationSamples, TextThatSpellsControlTokensStaysText) {
  const auto made = samples(R"([{"role": "user", "content": "<｜end▁of▁sentence｜></think>"},
    {"role": "assistant", "content": "a<｜User｜>b"}])");
  const auto count = [&](std::string_view token) {
    return std::count(made[0].ids.begin(), made[0].ids.end(), *tokenizer().token_id(token));
  };
  EXPECT_EQ(count("<｜User｜>"), 1);
  EXPECT_EQ(count("<｜end▁of▁sentence｜>"), 1);
  EXPECT_EQ(count("</think>"), 1);
  EXPECT_EQ(learnt(made[0]), "a<｜User｜>b<｜end▁of▁sentence｜>");
}

TEST(ConversationSamples, ErrorsNameTheField) {
  const struct {
    std::string row, message;
  } kCases[] = {
      {R"({"text": "x"})", "messages: expected a list"},
      {R"({"messages": [{"role": "user", "content": "Hi"}]})",
       "messages: expected an assistant's message to learn from, found none"},
      {R"({"messages": [{"role": "bot", "content": "Hi"}]})", "messages[0].role: expected"},
      {R"({"messages": [{"role": "assistant", "content": "Hi"}]})",
       "messages[0]: expected a user or tool message before the assistant's, found none"},
      {R"([{"role": "user"}, {"role": "assistant"}, {"role": "assistant", "content": "x"}])",
       "messages[2]: expected a user or tool message before the assistant's, found assistant"},
      {R"({"weight": -1, "messages": [{"role": "user"}, {"role": "assistant"}]})",
       "weight: expected a number from 0 to"},
      {R"([{"role": "user"}, {"role": "assistant", "weight": "no"}])",
       "messages[1].weight: expected a number"},
      {R"({"effort": 3, "messages": [{"role": "user"}, {"role": "assistant"}]})",
       "effort: expected a string, found number"},
      {R"({"effort": "huge", "messages": [{"role": "user"}, {"role": "assistant"}]})",
       "reasoning effort: expected"},
      {R"([{"role": "user"}, {"role": "tool", "tool_call_id": "x"}, {"role": "assistant"}])",
       "messages[1].tool_call_id: expected the id of an unanswered call"},
  };
  for (const auto& c : kCases) {
    const auto made = read(c.row);
    ASSERT_FALSE(made.has_value()) << c.row;
    EXPECT_NE(made.error().message().find(c.message), std::string::npos) << made.error().message();
  }
}

}  // namespace
}  // namespace cachalot::data
