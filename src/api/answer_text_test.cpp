// Think marks in an answer: as tokens they are the format's, spelled out they are text.
#include "api/answer_text.h"

#include <gtest/gtest.h>

#include "api/api_testing.h"

namespace cachalot::api {
namespace {

struct Piece {
  text::Segment::Kind kind;
  std::string_view text;
};
constexpr auto kToken = text::Segment::Kind::control;
constexpr auto kText = text::Segment::Kind::text;

AnswerText answer_of(const std::vector<Piece>& pieces, bool thinks) {
  AnswerTextOptions options;
  options.parser.emplace().starts_in_reasoning = thinks;
  AnswerText answer(testing::nano_tokenizer(), options);
  std::vector<text::CompletionEvent> events;
  for (const Piece& piece : pieces) {
    const text::Segment segment{piece.kind, piece.text};
    for (const int32_t id : testing::nano_tokenizer().encode_segments({&segment, 1}))
      answer.push(id, events);
  }
  answer.finish(engine::Finish::stop, events);
  std::string content;
  for (const text::CompletionEvent& event : events) {
    if (event.kind == text::CompletionEvent::Kind::content) content += event.text;
  }
  EXPECT_EQ(content, answer.content());
  return answer;
}

TEST(AnswerText, SpelledThinkMarksAreContent) {
  const std::string quoted = "Write <think> first, </think> last.";
  const AnswerText thought =
      answer_of({{kText, "Hm."}, {kToken, "</think>"}, {kText, quoted}}, true);
  EXPECT_EQ(thought.reasoning(), "Hm.");
  EXPECT_EQ(thought.content(), quoted);
  EXPECT_EQ(answer_of({{kText, quoted}}, false).content(), quoted);
}

TEST(AnswerText, StrayThinkTokensAreDropped) {
  const AnswerText answer = answer_of(
      {{kText, "a"}, {kToken, "</think>"}, {kText, "b"}, {kToken, "<think>"}, {kText, "c"}}, false);
  EXPECT_EQ(answer.content(), "abc");
  EXPECT_EQ(answer.reasoning(), "");
  const AnswerText late =
      answer_of({{kToken, "<think>"}, {kText, "hm"}, {kToken, "</think>"}, {kText, "x"}}, false);
  EXPECT_EQ(late.reasoning(), "hm");
  EXPECT_EQ(late.content(), "x");
}

}  // namespace
}  // namespace cachalot::api
