// Runs completions through the parser, cut in many ways, and checks what the header promises of any
// input.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/chat_test_data.h"
#include "text/completion_parser.h"

namespace cachalot::text {

struct Parsed {
  std::vector<CompletionEvent> events;  // neighbours joined
  std::string reasoning, content;
  std::vector<ParsedCall> calls;
  std::vector<ParserSpan> spans;
  std::vector<ParserReport> reports;
  FinishReason finish_reason;
  bool is_well_formed;

  bool has(Deviation what) const {
    return std::any_of(reports.begin(), reports.end(),
                       [what](const ParserReport& r) { return r.what == what; });
  }
  // "name{arguments}" of the complete calls, one a line.
  std::string complete_calls() const {
    std::string out;
    for (const ParsedCall& call : calls) {
      if (call.complete) out += (out.empty() ? "" : "\n") + call.name + call.arguments;
    }
    return out;
  }
};

// Feeds the pieces between ascending cuts.
inline Parsed parse_cut(std::string_view text, CompletionParserOptions options,
                        const std::vector<size_t>& cuts,
                        FinishCause cause = FinishCause::end_of_turn) {
  int num_ids = 0;
  options.new_call_id = [&num_ids] { return "id" + std::to_string(num_ids++); };
  CompletionParser parser(std::move(options));
  Parsed out;
  const auto collect = [&out](const std::vector<CompletionEvent>& events) {
    for (const CompletionEvent& event : events) {
      CompletionEvent* last = out.events.empty() ? nullptr : &out.events.back();
      const bool is_text = event.kind != CompletionEvent::Kind::call_start &&
                           event.kind != CompletionEvent::Kind::call_end;
      if (last && is_text && last->kind == event.kind && last->call_idx == event.call_idx) {
        last->text += event.text;
      } else {
        out.events.push_back(event);
      }
    }
  };
  size_t begin = 0;
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const size_t end = i < cuts.size() ? cuts[i] : text.size();
    std::vector<CompletionEvent> events;
    parser.feed(text.substr(begin, end - begin), events);
    collect(events);
    begin = end;
  }
  std::vector<CompletionEvent> events;
  parser.finish(cause, events);
  collect(events);
  out.reasoning = parser.reasoning();
  out.content = parser.content();
  out.calls = parser.calls();
  out.spans = parser.spans();
  out.reports = parser.reports();
  out.finish_reason = parser.finish_reason();
  out.is_well_formed = parser.well_formed().ok();
  return out;
}

inline bool same(const Parsed& a, const Parsed& b) {
  const auto calls_equal = [](const ParsedCall& x, const ParsedCall& y) {
    return x.id == y.id && x.name == y.name && x.arguments == y.arguments && x.raw == y.raw &&
           x.complete == y.complete;
  };
  return a.events == b.events && a.reasoning == b.reasoning && a.content == b.content &&
         a.spans == b.spans && a.reports == b.reports && a.finish_reason == b.finish_reason &&
         std::equal(a.calls.begin(), a.calls.end(), b.calls.begin(), b.calls.end(), calls_equal);
}

// Every byte accounted for once; events, texts and calls agree; arguments are JSON objects.
inline void check_promises(std::string_view text, const Parsed& parsed) {
  int64_t at = 0;
  std::string reasoning, content;
  std::vector<std::string> raw(parsed.calls.size());
  for (const ParserSpan& span : parsed.spans) {
    ASSERT_EQ(span.begin, at);
    ASSERT_LT(span.begin, span.end);
    const std::string_view bytes =
        text.substr(static_cast<size_t>(span.begin), static_cast<size_t>(span.end - span.begin));
    if (span.kind == ParserSpan::Kind::reasoning) reasoning += bytes;
    if (span.kind == ParserSpan::Kind::content) content += bytes;
    if (span.kind == ParserSpan::Kind::call) {
      ASSERT_LT(static_cast<size_t>(span.call_idx), raw.size());
      raw[static_cast<size_t>(span.call_idx)] += bytes;
    }
    at = span.end;
  }
  ASSERT_EQ(at, static_cast<int64_t>(text.size()));
  EXPECT_EQ(reasoning, parsed.reasoning);
  EXPECT_EQ(content, parsed.content);

  std::string event_reasoning, event_content;
  std::vector<std::string> arguments(parsed.calls.size());
  std::vector<int> state(parsed.calls.size());  // 0 not begun, 1 open, 2 ended
  for (const CompletionEvent& event : parsed.events) {
    const auto idx = static_cast<size_t>(event.call_idx);
    switch (event.kind) {
      case CompletionEvent::Kind::reasoning: event_reasoning += event.text; break;
      case CompletionEvent::Kind::content: event_content += event.text; break;
      case CompletionEvent::Kind::call_start:
        ASSERT_LT(idx, state.size());
        EXPECT_EQ(state[idx]++, 0);
        EXPECT_EQ(event.text, parsed.calls[idx].name);
        EXPECT_EQ(event.id, parsed.calls[idx].id);
        break;
      case CompletionEvent::Kind::call_arguments:
        ASSERT_LT(idx, state.size());
        EXPECT_EQ(state[idx], 1);
        arguments[idx] += event.text;
        break;
      case CompletionEvent::Kind::call_end:
        ASSERT_LT(idx, state.size());
        EXPECT_EQ(state[idx]++, 1);
        EXPECT_EQ(event.complete, parsed.calls[idx].complete);
        break;
    }
  }
  EXPECT_EQ(event_reasoning, reasoning);
  EXPECT_EQ(event_content, content);
  for (size_t i = 0; i < parsed.calls.size(); ++i) {
    EXPECT_EQ(state[i], 2);
    EXPECT_EQ(arguments[i], parsed.calls[i].arguments);
    EXPECT_EQ(raw[i], parsed.calls[i].raw);
    const auto value = parse_json(parsed.calls[i].arguments, "arguments");
    ASSERT_TRUE(value.has_value()) << parsed.calls[i].arguments;
    EXPECT_TRUE(value->is_object());
  }
}

// The whole text at once; every cut in two; byte by byte. All must agree.
inline Parsed parse(std::string_view text, const CompletionParserOptions& options,
                    FinishCause cause = FinishCause::end_of_turn) {
  const Parsed whole = parse_cut(text, options, {}, cause);
  check_promises(text, whole);
  std::vector<size_t> all;
  for (size_t i = 1; i < text.size(); ++i) {
    EXPECT_TRUE(same(whole, parse_cut(text, options, {i}, cause)))
        << "cut at " << i << " of " << text;
    all.push_back(i);
  }
  EXPECT_TRUE(same(whole, parse_cut(text, options, all, cause))) << "byte by byte: " << text;
  return whole;
}

inline OfferedTool offer(std::string name, std::string_view parameters = "{}") {
  return {std::move(name), test_json(parameters).as_object()};
}

}  // namespace cachalot::text
