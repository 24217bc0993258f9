#include "text/completion_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>

#include "text/chat_code_fence.h"
#include "text/chat_literals.h"
#include "text/completion_recorder.h"
#include "text/dsml_block_parser.h"
#include "text/dsml_markup.h"
#include "text/dsml_tags.h"

namespace cachalot::text {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Bytes at the end of `text` that begin a character without completing it.
size_t unfinished_character(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

std::string random_call_id() {
  std::random_device device;
  return fmt::format("call_{:08x}{:08x}{:08x}", device(), device(), device());
}

constexpr std::string_view kBar = kDsml.substr(0, 3);

}  // namespace

// Text outside of tool calls; the block parser takes over where one may begin.
class CompletionParser::Impl {
 public:
  explicit Impl(CompletionParserOptions options)
      : options_(std::move(options)),
        tags_(DsmlTags::with_dsml(options_.family)),
        plain_tags_(DsmlTags::plain(options_.family)),
        recorder_(options_.new_call_id ? options_.new_call_id : random_call_id),
        block_(input_, recorder_, options_),
        phase_(options_.starts_in_reasoning ? Phase::reasoning : Phase::content) {}

  void feed(std::string_view delta, std::vector<CompletionEvent>& events) {
    recorder_.send_to(&events);
    input_.append(delta);
    run(false);
  }

  void finish(FinishCause cause, std::vector<CompletionEvent>& events) {
    recorder_.send_to(&events);
    run(true);
    flush();
    const int64_t end = input_.offset(input_.pos);
    if (phase_ == Phase::reasoning) recorder_.report(Deviation::missing_think_end, end);
    if (options_.text_has_eos && phase_ != Phase::done)
      recorder_.report(Deviation::missing_end, end);
    const bool has_call = std::any_of(recorder_.calls().begin(), recorder_.calls().end(),
                                      [](const ParsedCall& call) { return call.complete; });
    finish_reason_ = has_call                             ? FinishReason::tool_calls
                     : cause == FinishCause::length_limit ? FinishReason::length
                                                          : FinishReason::stop;
  }

  bool is_in_content() const { return phase_ != Phase::reasoning && phase_ != Phase::block; }
  const CompletionRecorder& recorder() const { return recorder_; }
  FinishReason finish_reason() const { return finish_reason_; }

 private:
  enum class Phase {
    reasoning,
    content,
    block,
    after_calls,  // nothing but white space since the last block
    trailing,     // text after the calls
    done,         // after the end-of-sentence string
  };
  enum class Marker { none, think_start, think_end, eos, block, plain_block, bare_invoke };
  struct Found {
    Marker marker = Marker::none;
    TagMatch match;
    bool may_come = false;       // with more text
    bool may_be_markup = false;  // and it would be a tool tag
  };

  void run(bool is_final) {
    for (;;) {
      if (phase_ != Phase::block) {
        if (!read_text(is_final)) return;
        continue;
      }
      DsmlBlockParser::Step step = block_.step();
      if (step == DsmlBlockParser::Step::starved) {
        if (!is_final) return;
        step = block_.finish();
      }
      if (step == DsmlBlockParser::Step::closed) {
        phase_ = Phase::after_calls;
      } else if (step == DsmlBlockParser::Step::rejected) {
        recorder_.abort();
        plain_from_ = block_.rejected_from();
        input_.pos = static_cast<size_t>(plain_from_ - input_.base);
        phase_ = block_.was_believed() ? Phase::after_calls : before_block_;
      }
    }
  }

  bool offers_tools() const { return !options_.tools.empty(); }

  // White space before a block belongs to the markup, so it waits until it is known what follows.
  bool holds_space() const {
    return phase_ == Phase::after_calls ||
           (offers_tools() && (phase_ == Phase::reasoning || phase_ == Phase::content));
  }

  // One stretch of text, one piece of white space or one marker; false if nothing more can be
  // decided.
  bool read_text(bool is_final) {
    if (input_.at_end()) return false;
    const std::string_view rest = input_.rest();
    if (is_space(rest.front()) && holds_space()) {
      size_t length = 1;
      while (length < rest.size() && is_space(rest[length])) ++length;
      input_.pos += length;
      return true;
    }
    if (rest.front() == '<' && input_.offset(input_.pos) != plain_from_) {
      const Found found = find_marker(rest);
      if (found.marker != Marker::none) {
        take(found);
        return true;
      }
      if (found.may_come && !is_final) return false;
      if (found.may_be_markup && phase_ != Phase::reasoning &&
          rest.substr(1).find(kBar[0]) != std::string_view::npos) {
        discard_beginning_of_tag();
        return true;
      }
    }
    size_t length = 1;
    while (length < rest.size() && rest[length] != '<' &&
           !(holds_space() && is_space(rest[length]))) {
      ++length;
    }
    if (length == rest.size() && !is_final) {
      length -= unfinished_character(rest);
      if (length == 0) return false;
    }
    if (phase_ == Phase::after_calls) phase_ = Phase::trailing;
    input_.pos += length;
    flush();
    return true;
  }

  Found find_marker(std::string_view rest) const {
    Found found;
    const auto consider = [&](Marker marker, TagMatch match) {
      if (found.marker != Marker::none) return;
      if (match.kind == TagMatch::Kind::full) {
        found.marker = marker;
        found.match = match;
      }
      if (match.kind == TagMatch::Kind::partial) {
        found.may_come = true;
        if (marker == Marker::block || marker == Marker::bare_invoke) found.may_be_markup = true;
      }
    };
    if (options_.text_has_eos && phase_ != Phase::done)
      consider(Marker::eos, match_literal(rest, kEos));
    const bool is_text =
        phase_ == Phase::reasoning || (phase_ == Phase::content && !options_.content_is_plain);
    // In a fence, markup is quoted; but nothing keeps reasoning from ending.
    const bool is_quoted = is_text && in_fence();
    if (is_text && !(phase_ == Phase::content && is_quoted)) {
      const bool is_spelled = phase_ == Phase::content && options_.spelled_marks_are_text;
      if (!is_spelled || recorder_.content().empty())
        consider(Marker::think_start, match_literal(rest, kThinkStart));
      if (!is_spelled) consider(Marker::think_end, match_literal(rest, kThinkEnd));
    }
    if (!offers_tools() || is_quoted || !(is_text || phase_ == Phase::after_calls)) return found;
    consider(Marker::block, tags_.calls_open.match(rest));
    if (phase_ == Phase::reasoning) return found;
    consider(Marker::plain_block, plain_tags_.calls_open.match(rest));
    if (phase_ == Phase::content) {
      consider(Marker::bare_invoke, match_literal(rest, tags_.invoke_open.spellings[0]));
    }
    return found;
  }

  bool in_fence() const {
    CodeFence fence = fence_;
    fence.feed(std::string_view(input_.buffer).substr(input_.head, input_.pos - input_.head));
    return fence.inside();
  }

  void take(const Found& found) {
    switch (found.marker) {
      case Marker::none: return;
      case Marker::think_end:
        flush();
        if (phase_ == Phase::content) report_here(Deviation::stray_think_end);
        phase_ = Phase::content;
        fence_ = CodeFence();
        break;
      case Marker::think_start:
        if (phase_ == Phase::content && recorder_.content().empty()) {
          drop(ParserSpan::Kind::marker);
          phase_ = Phase::reasoning;
        } else {
          flush();
        }
        report_here(Deviation::repeated_think);
        break;
      case Marker::eos:
        flush();
        // A completion that ends inside reasoning is cut short, however it ends.
        if (phase_ == Phase::reasoning) report_here(Deviation::missing_think_end);
        phase_ = Phase::done;
        break;
      case Marker::block:
      case Marker::plain_block:
      case Marker::bare_invoke: {
        before_block_ = phase_;
        using Start = DsmlBlockParser::Start;
        const Start start = found.marker == Marker::bare_invoke ? Start::bare_invoke
                            : phase_ == Phase::reasoning        ? Start::block_in_reasoning
                                                                : Start::block;
        block_.begin(start, found.marker == Marker::plain_block,
                     start == Start::bare_invoke ? TagMatch() : found.match);
        phase_ = Phase::block;
        return;
      }
    }
    input_.pos += found.match.length;
    drop(ParserSpan::Kind::marker);
  }

  // [head, pos) as text of this phase.
  void flush() {
    const std::string_view text =
        std::string_view(input_.buffer).substr(input_.head, input_.pos - input_.head);
    const int64_t begin = input_.offset(input_.head);
    if (text.empty()) return;
    switch (phase_) {
      case Phase::reasoning:
        recorder_.reasoning(text, begin);
        fence_.feed(text);
        break;
      case Phase::content:
        recorder_.content(text, begin);
        fence_.feed(text);
        break;
      default:
        if (!has_text_after_calls_) recorder_.report(Deviation::text_after_calls, begin);
        has_text_after_calls_ = true;
        if (phase_ == Phase::trailing && options_.keep_text_after_calls) {
          recorder_.content(text, begin);
        } else {
          drop(ParserSpan::Kind::discarded);
        }
    }
    input_.head = input_.pos;
  }

  void drop(ParserSpan::Kind kind) {
    recorder_.span(kind, input_.offset(input_.head), input_.offset(input_.pos));
    input_.head = input_.pos;
  }

  void report_here(Deviation what) { recorder_.report(what, input_.offset(input_.pos)); }

  // The completion broke off inside the first tag of a block.
  void discard_beginning_of_tag() {
    drop(ParserSpan::Kind::marker);
    report_here(Deviation::truncated_call);
    input_.pos = input_.buffer.size();
    drop(ParserSpan::Kind::discarded);
  }

  const CompletionParserOptions options_;
  const DsmlTags tags_;
  const DsmlTags plain_tags_;
  ParserInput input_;
  CompletionRecorder recorder_;
  DsmlBlockParser block_;
  Phase phase_;
  Phase before_block_ = Phase::content;
  CodeFence fence_;
  int64_t plain_from_ = -1;  // where a '<' is known to begin no block
  bool has_text_after_calls_ = false;
  FinishReason finish_reason_ = FinishReason::stop;
};

CompletionParser::CompletionParser(CompletionParserOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}
CompletionParser::~CompletionParser() = default;
CompletionParser::CompletionParser(CompletionParser&&) noexcept = default;
CompletionParser& CompletionParser::operator=(CompletionParser&&) noexcept = default;

void CompletionParser::feed(std::string_view delta, std::vector<CompletionEvent>& events) {
  impl_->feed(delta, events);
}
void CompletionParser::finish(FinishCause cause, std::vector<CompletionEvent>& events) {
  impl_->finish(cause, events);
}
const std::string& CompletionParser::reasoning() const { return impl_->recorder().reasoning(); }
bool CompletionParser::is_in_content() const { return impl_->is_in_content(); }
const std::string& CompletionParser::content() const { return impl_->recorder().content(); }
const std::vector<ParsedCall>& CompletionParser::calls() const { return impl_->recorder().calls(); }
const std::vector<ParserSpan>& CompletionParser::spans() const { return impl_->recorder().spans(); }
const std::vector<ParserReport>& CompletionParser::reports() const {
  return impl_->recorder().reports();
}
FinishReason CompletionParser::finish_reason() const { return impl_->finish_reason(); }

Status CompletionParser::well_formed() const {
  if (reports().empty()) return {};
  const ParserReport& first = reports().front();
  return invalid_argument(fmt::format(
      "completion: expected the grammar of reference/chat 3.1, found {} at byte {}{}{}",
      deviation_name(first.what), first.offset, first.detail.empty() ? "" : ": ", first.detail));
}

std::string_view deviation_name(Deviation deviation) {
  static constexpr std::array kNames = {
      "missing_think_end", "repeated_think",      "stray_think_end",     "call_in_reasoning",
      "block_separator",   "missing_block_start", "missing_block_end",   "empty_block",
      "tag_variant",       "tag_spacing",         "unknown_tool",        "truncated_call",
      "malformed_call",    "unclosed_parameter",  "duplicate_parameter", "missing_string_attribute",
      "bad_json_value",    "json_body",           "wrapped_arguments",   "text_after_calls",
      "missing_end",
  };
  return kNames[static_cast<size_t>(deviation)];
}

Result<std::vector<OfferedTool>> offered_tools(const std::vector<ToolDefinition>& tools,
                                               PromptFamily family) {
  std::vector<OfferedTool> out;
  for (size_t i = 0; i < tools.size(); ++i) {
    CACHALOT_ASSIGN_OR_RETURN(const json::object schema,
                              dsml_tool_schema(tools[i], family, fmt::format("tools[{}]", i)));
    OfferedTool& tool = out.emplace_back();
    if (const json::value* name = schema.if_contains("name"); name && name->is_string()) {
      tool.name = std::string_view(name->get_string());
    }
    const json::value* parameters = schema.if_contains("parameters");
    if (parameters && parameters->is_object()) tool.parameters = parameters->get_object();
  }
  return out;
}

}  // namespace cachalot::text
