#include "post/episode.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/chat_literals.h"
#include "text/completion_parser.h"

namespace cachalot::post {
namespace {

// Runs of sampled tokens: a turn each.
std::vector<std::vector<int32_t>> sampled_runs(const RolloutAnswer& answer) {
  std::vector<std::vector<int32_t>> runs;
  for (size_t i = 0; i < answer.ids.size(); ++i) {
    if (!answer.is_sampled[i]) continue;
    if (i == 0 || !answer.is_sampled[i - 1]) runs.emplace_back();
    runs.back().push_back(answer.ids[i]);
  }
  return runs;
}

}  // namespace

Result<Episode> Episode::create(const EpisodeFormat& format, RlTask task, std::string_view effort) {
  Episode episode(format, std::move(task));
  if (format.prompt == PromptFormat::raw) {
    episode.prompt_ =
        text::raw_prompt_ids(*format.tokenizer, format.bos_token, episode.task_.prompt);
    return episode;
  }
  text::ChatStyle& style = episode.style_;
  style.family = format.family;
  style.thinking = effort != "none";
  if (style.thinking) {
    CACHALOT_ASSIGN_OR_RETURN(style.effort, text::parse_reasoning_effort(effort));
  }
  text::NormalizeOptions normalize;
  normalize.family = style.family;
  CACHALOT_ASSIGN_OR_RETURN(episode.messages_,
                            text::normalize_messages(episode.task_.request, normalize));
  CACHALOT_ASSIGN_OR_RETURN(text::ChatPrompt prompt,
                            text::chat_prompt(*format.tokenizer, episode.task_.request, style));
  episode.prompt_ = std::move(prompt.ids);
  episode.ends_in_reasoning_ = prompt.ends_in_reasoning;
  return episode;
}

Result<std::vector<Episode::Turn>> Episode::turns(const RolloutAnswer& answer) const {
  std::vector<Turn> turns;
  int64_t num_calls = 0;
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<text::OfferedTool> offered,
                            text::offered_tools(task_.request.tools, style_.family));
  std::vector<std::vector<int32_t>> runs = sampled_runs(answer);
  // What ends a raw answer is none of its text; the parser of chats knows their end.
  if (format_.prompt == PromptFormat::raw && answer.end == AnswerEnd::stop) runs.back().pop_back();
  for (const std::vector<int32_t>& ids : runs) {
    Turn& turn = turns.emplace_back();
    CACHALOT_ASSIGN_OR_RETURN(std::string said, format_.tokenizer->decode(ids));
    if (format_.prompt == PromptFormat::raw) {
      turn.content = std::move(said);
      continue;
    }
    text::CompletionParserOptions options;
    options.family = style_.family;
    options.starts_in_reasoning = ends_in_reasoning_;
    options.tools = offered;
    options.text_has_eos = true;
    options.new_call_id = [&] { return fmt::format("call_{}", num_calls++); };
    text::CompletionParser parser(std::move(options));
    std::vector<text::CompletionEvent> events;
    parser.feed(said, events);
    parser.finish(text::FinishCause::end_of_turn, events);
    turn.reasoning = parser.reasoning();
    turn.content = parser.content();
    for (const text::ParsedCall& call : parser.calls()) {
      if (!call.complete) continue;
      text::ToolCall& made = turn.calls.emplace_back();
      made.id = call.id;
      made.name = call.name;
      made.arguments = call.arguments;
    }
  }
  return turns;
}

Result<std::vector<int32_t>> Episode::next_turn(const RolloutAnswer& answer) const {
  std::vector<int32_t> none;
  if (!task_.environment || format_.prompt == PromptFormat::raw) return none;
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<Turn> turns, this->turns(answer));
  if (turns.empty() || turns.back().calls.empty() ||
      static_cast<int64_t>(turns.size()) >= format_.max_turns)
    return none;
  const std::unique_ptr<data::ToolEnvironment> world = task_.environment();
  std::vector<text::Message> messages = messages_;
  text::EncodeOptions options;
  for (const Turn& turn : turns) {
    text::Message& said = messages.emplace_back();
    said.role = text::Role::assistant;
    said.reasoning_content = turn.reasoning;
    said.content = turn.content;
    said.tool_calls = turn.calls;
    options.num_context_messages = messages.size();
    for (const text::ToolCall& call : turn.calls) {
      text::Message& result = messages.emplace_back();
      result.role = text::Role::tool;
      result.tool_call_id = call.id;
      result.content = world->call(call);
    }
  }
  options.family = style_.family;
  options.thinking = style_.thinking;
  if (style_.thinking) options.effort = style_.effort;
  options.add_bos = false;
  CACHALOT_ASSIGN_OR_RETURN(const text::EncodedPrompt next, text::encode_chat(messages, options));
  return format_.tokenizer->encode_segments(next.views());
}

Result<data::Reply> Episode::reply(const RolloutAnswer& answer) const {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<Turn> turns, this->turns(answer));
  data::Reply reply;
  for (const Turn& turn : turns)
    reply.tool_calls.insert(reply.tool_calls.end(), turn.calls.begin(), turn.calls.end());
  if (!turns.empty()) reply.content = turns.back().content;
  return reply;
}

int64_t Episode::num_reasoning_tokens(const RolloutAnswer& answer) const {
  if (!ends_in_reasoning_) return 0;
  const std::optional<int32_t> end = format_.tokenizer->token_id(text::kThinkEnd);
  int64_t count = 0;
  for (const std::vector<int32_t>& ids : sampled_runs(answer)) {
    const auto found = end ? std::ranges::find(ids, *end) : ids.end();
    count += found - ids.begin();
  }
  return count;
}

Result<std::string> Episode::text(const RolloutAnswer& answer) const {
  return format_.tokenizer->decode(answer.ids);
}

}  // namespace cachalot::post
