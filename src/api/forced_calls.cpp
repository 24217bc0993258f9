#include "api/forced_calls.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/fields.h"
#include "base/python_json.h"
#include "text/chat_literals.h"
#include "text/dsml_markup.h"

namespace cachalot::api {
namespace {

Result<text::ToolCall> read_call(const json::value& value, const std::string& where) {
  if (!value.is_object())
    return invalid_argument(fmt::format("{}: expected an object, found {}", where, shown(value)));
  Fields fields(value.get_object(), where);
  text::ToolCall call;
  fields.text("name", &call.name);
  const json::object* arguments = fields.object("arguments");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (call.name.empty())
    return invalid_argument(fmt::format("{}.name: expected a name, found nothing", where));
  call.arguments = arguments != nullptr ? python_json(*arguments) : "{}";
  call.arguments_are_text = false;
  return call;
}

Result<ForcedCalls::Answer> read_answer(std::string_view line, const std::string& where) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(line, where));
  if (!value.is_object())
    return invalid_argument(fmt::format("{}: expected an object, found {}", where, shown(value)));
  Fields fields(value.get_object(), where);
  ForcedCalls::Answer answer;
  fields.text("text", &answer.content);
  const json::array* calls = fields.array("calls");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  for (size_t i = 0; calls != nullptr && i < calls->size(); ++i) {
    CACHALOT_ASSIGN_OR_RETURN(text::ToolCall call,
                              read_call((*calls)[i], fmt::format("{}.calls[{}]", where, i)));
    answer.calls.push_back(std::move(call));
  }
  if (answer.calls.empty() && answer.content.empty())
    return invalid_argument(fmt::format("{}: expected text or calls, found neither", where));
  return answer;
}

}  // namespace

Result<ForcedCalls> ForcedCalls::parse(std::string_view lines, std::string_view origin) {
  ForcedCalls out;
  for (size_t number = 1; !lines.empty(); ++number) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    const std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    if (line.empty()) continue;
    CACHALOT_ASSIGN_OR_RETURN(Answer answer,
                              read_answer(line, fmt::format("{}:{}", origin, number)));
    out.answers_.push_back(std::move(answer));
  }
  return out;
}

const ForcedCalls::Answer* ForcedCalls::find(const std::vector<text::Message>& messages,
                                             const std::vector<text::ToolDefinition>& tools) const {
  if (tools.empty()) return nullptr;
  const auto step = static_cast<size_t>(
      std::count_if(messages.begin(), messages.end(),
                    [](const text::Message& message) { return !message.tool_calls.empty(); }));
  if (step >= answers_.size()) return nullptr;
  const Answer& answer = answers_[step];
  const auto is_offered = [&tools](const text::ToolCall& call) {
    return std::any_of(tools.begin(), tools.end(), [&call](const text::ToolDefinition& tool) {
      return tool.name() == call.name;
    });
  };
  return std::all_of(answer.calls.begin(), answer.calls.end(), is_offered) ? &answer : nullptr;
}

Result<grammar::GrammarSource> forced_grammar(const ForcedCalls::Answer& answer,
                                              text::PromptFamily family, bool starts_in_reasoning,
                                              const grammar::Vocabulary& vocabulary) {
  text::PromptWriter writer;
  if (starts_in_reasoning) writer.control(text::kThinkEnd);
  writer.text(answer.content);
  CACHALOT_RETURN_IF_ERROR(text::write_dsml_calls(answer.calls, family, "forced calls", writer));
  grammar::GrammarSource source;
  std::vector<grammar::Expression> parts;
  for (const text::PromptSegment& segment : writer.segments()) {
    const auto token = segment.kind == text::PromptSegment::Kind::control
                           ? vocabulary.control(segment.text)
                           : std::nullopt;
    parts.push_back(token ? source.control(*token) : source.literal(segment.text));
  }
  const grammar::RuleId root = source.add_rule("forced");
  source.set_body(root, source.sequence(std::move(parts)));
  return source;
}

}  // namespace cachalot::api
