// libFuzzer target: any bytes as a completion. The first byte chooses options, the second how the
// rest is cut into deltas. Checks the promises of completion_parser.h: spans tile the input, events
// agree with the results, arguments are JSON objects, and the cuts do not matter.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/completion_parser.h"

namespace {
using namespace cachalot;
using namespace cachalot::text;

CompletionParserOptions make_options(uint8_t choice) {
  CompletionParserOptions options;
  options.family = (choice & 1) != 0 ? PromptFamily::v4_1 : PromptFamily::v4;
  options.starts_in_reasoning = (choice & 2) != 0;
  options.text_has_eos = (choice & 4) != 0;
  options.keep_text_after_calls = (choice & 8) != 0;
  if ((choice & 16) == 0) {
    const auto schema = parse_json(
        R"({"properties": {"a": {"type": "string"}, "n": {"type": ["number", "null"]}, "b": {"type": "boolean"}},
            "required": ["a"]})",
        "schema");
    options.tools = {{"f", schema->as_object()}, {"g", {}}};
  }
  options.new_call_id = [] { return std::string("id"); };
  return options;
}

struct Outcome {
  std::vector<CompletionEvent> events;
  std::string reasoning, content;
  std::vector<ParserSpan> spans;
  std::vector<ParserReport> reports;
};

void join(std::vector<CompletionEvent>& all, const std::vector<CompletionEvent>& more) {
  for (const CompletionEvent& event : more) {
    const bool is_text = event.kind != CompletionEvent::Kind::call_start &&
                         event.kind != CompletionEvent::Kind::call_end;
    if (!all.empty() && is_text && all.back().kind == event.kind &&
        all.back().call_idx == event.call_idx) {
      all.back().text += event.text;
    } else {
      all.push_back(event);
    }
  }
}

Outcome run(std::string_view text, uint8_t choice, size_t stride) {
  CompletionParser parser(make_options(choice));
  Outcome out;
  for (size_t at = 0; at < text.size(); at += stride) {
    std::vector<CompletionEvent> events;
    parser.feed(text.substr(at, stride), events);
    join(out.events, events);
  }
  std::vector<CompletionEvent> events;
  parser.finish(FinishCause::end_of_turn, events);
  join(out.events, events);
  out.reasoning = parser.reasoning();
  out.content = parser.content();
  out.spans = parser.spans();
  out.reports = parser.reports();

  int64_t at = 0;
  std::string reasoning, content;
  std::vector<std::string> raw(parser.calls().size());
  for (const ParserSpan& span : out.spans) {
    CACHALOT_CHECK(span.begin == at && span.end > span.begin);
    at = span.end;
    const std::string_view bytes =
        text.substr(static_cast<size_t>(span.begin), static_cast<size_t>(span.end - span.begin));
    if (span.kind == ParserSpan::Kind::reasoning) reasoning += bytes;
    if (span.kind == ParserSpan::Kind::content) content += bytes;
    if (span.kind == ParserSpan::Kind::call) raw.at(static_cast<size_t>(span.call_idx)) += bytes;
  }
  CACHALOT_CHECK(at == static_cast<int64_t>(text.size()));
  CACHALOT_CHECK(reasoning == out.reasoning && content == out.content);
  std::vector<std::string> arguments(parser.calls().size());
  for (const CompletionEvent& event : out.events) {
    if (event.kind == CompletionEvent::Kind::call_arguments)
      arguments.at(static_cast<size_t>(event.call_idx)) += event.text;
  }
  for (size_t i = 0; i < parser.calls().size(); ++i) {
    const ParsedCall& call = parser.calls()[i];
    CACHALOT_CHECK(call.arguments == arguments[i] && call.raw == raw[i]);
    const auto value = parse_json(call.arguments, "arguments");
    CACHALOT_CHECK_MSG(value.has_value() && value->is_object(), call.arguments);
  }
  return out;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const Outcome whole = run(text, data[0], std::max<size_t>(1, text.size()));
  const Outcome cut = run(text, data[0], 1 + data[1] % 16);
  CACHALOT_CHECK(whole.events == cut.events && whole.spans == cut.spans &&
                 whole.reports == cut.reports);
  CACHALOT_CHECK(whole.reasoning == cut.reasoning && whole.content == cut.content);
  return 0;
}
