#include "api/chat_ask.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace cachalot::api {

Result<text::ChatPrompt> render_chat(const ChatAsk& ask, const ServedModel& model) {
  const std::vector<text::Message>& messages = ask.messages;
  if (!messages.empty() && messages.back().role == text::Role::assistant &&
      !messages.back().tool_calls.empty()) {
    return invalid_argument(
        fmt::format("messages[{}].tool_calls: expected their results after them, found the end of "
                    "the conversation",
                    messages.size() - 1));
  }
  text::ChatRequest request;
  request.messages = messages;
  request.tools = ask.tools.definitions;
  if (ask.constraint.is_shown) {
    request.response_format = json::object{
        {"type", "json_schema"}, {"json_schema", json::object{{"schema", ask.constraint.value}}}};
  }
  text::ChatStyle style;
  style.family = model.options().family;
  style.thinking = ask.thinking.thinks;
  style.effort = ask.thinking.effort;
  style.drop_thinking = ask.thinking.drops_earlier;
  style.trailing_assistant = text::NormalizeOptions::TrailingAssistant::continue_it;
  return text::chat_prompt(model.tokenizer(), std::move(request), style);
}

namespace {

Result<std::shared_ptr<CachedGrammar>> grammar_of(const ChatAsk& ask, const AnswerTools& tools,
                                                  const ServedModel& model) {
  const ForcedCalls::Answer* forced =
      model.options().forced_calls.find(ask.messages, ask.tools.definitions);
  if (forced == nullptr) return answer_grammar(ask.constraint, tools, ask.generation, model);
  const std::string name = fmt::format("forced {} {}", fmt::ptr(forced), tools.starts_in_reasoning);
  return model.grammars().find(name, [&] {
    return forced_grammar(*forced, tools.family, tools.starts_in_reasoning, *model.vocabulary());
  });
}

}  // namespace

Result<Ask> prepare_chat(const ChatAsk& ask, text::ChatPrompt prompt, const ServedModel& model) {
  AnswerTools tools;
  tools.family = model.options().family;
  tools.starts_in_reasoning = prompt.ends_in_reasoning;
  tools.is_offered = !ask.tools.definitions.empty();
  tools.choice = ask.selection.choice;
  tools.parallel = ask.selection.parallel;
  CACHALOT_ASSIGN_OR_RETURN(tools.tools, callable_tools(ask.tools, ask.selection, tools.family));
  CACHALOT_ASSIGN_OR_RETURN(std::shared_ptr<CachedGrammar> grammar, grammar_of(ask, tools, model));
  Ask out;
  out.request = make_request(ask.generation, std::move(prompt.ids), std::move(grammar), model);
  text::CompletionParserOptions& parser = out.text.parser.emplace();
  parser.family = tools.family;
  parser.starts_in_reasoning = prompt.ends_in_reasoning;
  // Where none may be called, nothing is a call.
  if (ask.selection.choice != grammar::ToolChoice::none) {
    CACHALOT_ASSIGN_OR_RETURN(parser.tools,
                              text::offered_tools(ask.tools.definitions, tools.family));
  }
  parser.content_is_plain =
      ask.constraint.kind != AnswerConstraint::Kind::none && parser.tools.empty();
  parser.new_call_id = [new_id = model.options().new_id, prefix = ask.call_id_prefix] {
    return new_id(prefix);
  };
  out.text.stops = ask.generation.stops;
  out.text.keeps_stop = ask.generation.keeps_stop;
  out.text.shows_controls = ask.generation.shows_controls;
  return out;
}

std::optional<HttpHeader> ignored_tools_header(const ClientTools& tools) {
  if (tools.hosted.empty()) return std::nullopt;
  // A client's words: nothing that would end the line.
  std::string value = fmt::format("{}", fmt::join(tools.hosted, ", "));
  std::erase_if(value, [](char c) { return c < ' ' || c > '~'; });
  constexpr size_t kMaxBytes = 1024;
  return HttpHeader{"X-Ignored-Tools", value.substr(0, kMaxBytes)};
}

text::FinishReason finish_reason(const AnswerText& text, engine::Finish finish) {
  const std::vector<text::ParsedCall>& calls = text.calls();
  const bool is_cut = finish != engine::Finish::stop && !calls.empty() && !calls.back().complete;
  if (text.has_complete_call() && !is_cut) return text::FinishReason::tool_calls;
  return finish == engine::Finish::stop ? text::FinishReason::stop : text::FinishReason::length;
}

}  // namespace cachalot::api
