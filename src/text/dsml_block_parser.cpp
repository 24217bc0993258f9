#include "text/dsml_block_parser.h"

#include <algorithm>

#include "base/python_json.h"
#include "text/chat_literals.h"

namespace cachalot::text {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

}  // namespace

void ParserInput::append(std::string_view delta) {
  // Moving the rest to the front costs as much as has been read since it was last done.
  if (head > 4096 && head > buffer.size() / 2) {
    buffer.erase(0, head);
    base += static_cast<int64_t>(head);
    pos -= head;
    head = 0;
  }
  buffer += delta;
}

DsmlBlockParser::DsmlBlockParser(ParserInput& input, CompletionRecorder& recorder,
                                 const CompletionParserOptions& options)
    : input_(input),
      recorder_(recorder),
      options_(options),
      dsml_tags_(DsmlTags::with_dsml(options.family)),
      plain_tags_(DsmlTags::plain(options.family)) {}

void DsmlBlockParser::begin(Start start, bool is_plain, TagMatch opening) {
  start_ = start;
  is_plain_ = is_plain;
  tags_ = is_plain ? &plain_tags_ : &dsml_tags_;
  in_call_ = had_call_ = saw_variant_ = has_wrapped_ = was_believed_ = false;
  space_.clear();
  state_ = start == Start::bare_invoke ? State::invoke : State::between;
  begin_tentative();
  if (input_.head < input_.pos) {  // the white space before the block
    const bool is_blank_line =
        input_.buffer.substr(input_.head, input_.pos - input_.head) == "\n\n";
    if (!is_blank_line) recorder_.report(Deviation::block_separator, input_.offset(input_.pos));
    recorder_.span(ParserSpan::Kind::marker, input_.offset(input_.head), input_.offset(input_.pos));
  } else {
    recorder_.report(Deviation::block_separator, input_.offset(input_.pos));
  }
  if (start == Start::bare_invoke) {
    recorder_.report(Deviation::missing_block_start, input_.offset(input_.pos));
  }
  if (start == Start::block_in_reasoning) {
    recorder_.report(Deviation::call_in_reasoning, input_.offset(input_.pos));
  }
  note_variant(opening.is_variant);
  advance(opening.length);
}

void DsmlBlockParser::begin_tentative() {
  recorder_.begin_tentative();
  tentative_from_ = input_.offset(input_.pos);
}

void DsmlBlockParser::commit() {
  if (!recorder_.tentative()) return;
  recorder_.commit();
  was_believed_ = true;
  input_.head = input_.pos;
}

void DsmlBlockParser::advance(size_t length, ParserSpan::Kind kind) {
  const size_t end = input_.pos + length;
  if (in_call_) call_.raw.append(input_.buffer, input_.pos, length);
  recorder_.span(in_call_ ? ParserSpan::Kind::call : kind, input_.offset(input_.pos),
                 input_.offset(end),
                 in_call_ ? recorder_.next_call() - (call_.is_started ? 1 : 0) : -1);
  input_.pos = end;
  if (!recorder_.tentative()) input_.head = end;
}

bool DsmlBlockParser::skip_space() {
  size_t end = input_.pos;
  while (end < input_.buffer.size() && is_space(input_.buffer[end])) ++end;
  space_.append(input_.buffer, input_.pos, end - input_.pos);
  advance(end - input_.pos);
  return !input_.at_end();
}

void DsmlBlockParser::check_space(std::string_view expected, std::string_view also) {
  if (space_ != expected && (also.empty() || space_ != also)) {
    recorder_.report(Deviation::tag_spacing, input_.offset(input_.pos));
  }
  space_.clear();
}

void DsmlBlockParser::note_variant(bool is_variant) {
  if (is_variant && !saw_variant_) {
    saw_variant_ = true;
    recorder_.report(Deviation::tag_variant, input_.offset(input_.pos));
  }
}

DsmlBlockParser::Step DsmlBlockParser::step() {
  switch (state_) {
    case State::between: return step_between();
    case State::invoke: return step_invoke();
    case State::body: return step_body();
    case State::json_body: return step_json_body();
    case State::value: return step_value();
    case State::recover: return step_recover();
  }
  return Step::starved;
}

// Before the first call, or after one.
DsmlBlockParser::Step DsmlBlockParser::step_between() {
  if (!skip_space()) return Step::starved;
  const TagMatch invoke = tags_->invoke_open.match(input_.rest());
  const TagMatch close = tags_->calls_close.match(input_.rest());
  if (invoke.kind == TagMatch::Kind::full) {
    check_space("\n");
    // A call outside a block must show again that it is one.
    if (start_ == Start::bare_invoke && !recorder_.tentative()) begin_tentative();
    state_ = State::invoke;
    return Step::more;
  }
  if (close.kind == TagMatch::Kind::full) {
    check_space("\n");
    note_variant(close.is_variant);
    advance(close.length);
    if (!had_call_) {
      if (start_ != Start::block || is_plain_) return Step::rejected;
      recorder_.report(Deviation::empty_block, input_.offset(input_.pos));
    }
    return close_block();
  }
  if (invoke.kind == TagMatch::Kind::partial || close.kind == TagMatch::Kind::partial)
    return Step::starved;
  return violation();
}

DsmlBlockParser::Step DsmlBlockParser::step_invoke() {
  OpenTag tag = parse_open_tag(input_.rest(), tags_->invoke_open);
  if (tag.kind == OpenTag::Kind::partial) return Step::starved;
  if (tag.kind == OpenTag::Kind::none || tag.is_string) {
    const Step step = violation();
    // What begins here is no call: recovery must not find it again.
    if (step == Step::more) advance(1, ParserSpan::Kind::discarded);
    return step;
  }
  call_ = Call();
  call_.name = std::move(tag.name);
  call_.begin = input_.offset(input_.pos);
  for (const OfferedTool& tool : options_.tools) {
    if (tool.name != call_.name) continue;
    call_.is_offered = true;
    call_.schema = ParameterSchema(&tool.parameters);
  }
  in_call_ = true;
  has_wrapped_ = false;
  note_variant(tag.is_variant);
  advance(tag.length);
  state_ = State::body;
  return Step::more;
}

// Inside a call, where a parameter or the end may come.
DsmlBlockParser::Step DsmlBlockParser::step_body() {
  if (!skip_space()) return Step::starved;
  if (call_.num_parameters == 0 && input_.buffer[input_.pos] == '{') {
    recorder_.report(Deviation::json_body, input_.offset(input_.pos), call_.name);
    parameter_ = Parameter();
    space_.clear();
    state_ = State::json_body;
    return Step::more;
  }
  const TagMatch close = tags_->invoke_close.match(input_.rest());
  if (close.kind == TagMatch::Kind::full) {
    check_space("\n", call_.num_parameters == 0 ? "\n\n" : "");
    note_variant(close.is_variant);
    advance(close.length);
    settle_wrapped(true);
    start_call();
    recorder_.arguments(recorder_.calls().back().arguments.empty() ? "{}" : "}");
    return end_call();
  }
  OpenTag tag = parse_open_tag(input_.rest(), tags_->parameter_open);
  if (tag.kind == OpenTag::Kind::full) {
    check_space("\n");
    note_variant(tag.is_variant);
    const size_t length = tag.length;
    settle_wrapped(false);
    begin_parameter(std::move(tag));
    advance(length);
    state_ = State::value;
    return Step::more;
  }
  if (close.kind == TagMatch::Kind::partial || tag.kind == OpenTag::Kind::partial)
    return Step::starved;
  return violation();
}

DsmlBlockParser::Step DsmlBlockParser::step_json_body() {
  const size_t at = input_.buffer.find('<', input_.pos);
  const size_t end = std::min(at, input_.buffer.size());
  parameter_.value.append(input_.buffer, input_.pos, end - input_.pos);
  advance(end - input_.pos);
  if (input_.at_end()) return Step::starved;
  const TagMatch close = tags_->invoke_close.match(input_.rest());
  if (close.kind == TagMatch::Kind::partial) return Step::starved;
  if (close.kind == TagMatch::Kind::none) {
    if (recorder_.tentative()) {
      const TagMatch other = match_other_start();
      if (other.kind == TagMatch::Kind::partial) return Step::starved;
      if (other.kind == TagMatch::Kind::full) return violation();
    }
    parameter_.value += '<';
    advance(1);
    return Step::more;
  }
  const auto members = parse_python_object(parameter_.value, call_.name);
  if (!members.has_value()) return violation();
  advance(close.length);
  for (const PythonJsonMember& member : *members) call_.keys.insert(member.key);
  start_call();
  std::string_view body = parameter_.value;
  body = body.substr(0, body.find_last_of('}') + 1);
  recorder_.arguments(body);
  return end_call();
}

// Tags that begin something else show that a tentative call only quotes markup. Giving up there
// also bounds how often text is read again.
TagMatch DsmlBlockParser::match_other_start() const {
  const auto less = [](const TagMatch& a, const TagMatch& b) { return a.kind < b.kind; };
  const std::string_view rest = input_.rest();
  TagMatch other = std::max(tags_->invoke_open.match(rest), tags_->calls_open.match(rest), less);
  if (start_ == Start::block_in_reasoning)
    other = std::max(other, match_literal(rest, kThinkEnd), less);
  return other;
}

DsmlBlockParser::Step DsmlBlockParser::step_value() {
  // Plain stretches go through at once; a tag can only begin at '<', or at a line break before one.
  const size_t at = input_.buffer.find_first_of("<\n", input_.pos);
  if (at > input_.pos) {
    const size_t end = std::min(at, input_.buffer.size());
    value_text(std::string_view(input_.buffer).substr(input_.pos, end - input_.pos));
    advance(end - input_.pos);
    return input_.at_end() ? Step::starved : Step::more;
  }
  if (input_.at_end()) return Step::starved;
  const std::string_view rest = input_.rest();
  if (rest.front() == '\n') {
    // The closing tag is missing if the next tag stands at the beginning of a line.
    const OpenTag next = parse_open_tag(rest.substr(1), tags_->parameter_open);
    const TagMatch end = tags_->invoke_close.match(rest.substr(1));
    if (next.kind == OpenTag::Kind::full || end.kind == TagMatch::Kind::full) {
      recorder_.report(Deviation::unclosed_parameter, input_.offset(input_.pos), parameter_.key);
      end_parameter();
      state_ = State::body;
      return Step::more;
    }
    if (next.kind == OpenTag::Kind::partial || end.kind == TagMatch::Kind::partial)
      return Step::starved;
  } else {
    const TagMatch close = tags_->parameter_close.match(rest);
    if (close.kind == TagMatch::Kind::partial) return Step::starved;
    if (close.kind == TagMatch::Kind::full) {
      note_variant(close.is_variant);
      advance(close.length);
      end_parameter();
      state_ = State::body;
      return Step::more;
    }
    if (recorder_.tentative()) {
      const TagMatch other = match_other_start();
      if (other.kind == TagMatch::Kind::partial) return Step::starved;
      if (other.kind == TagMatch::Kind::full) return violation();
    }
  }
  value_text(rest.substr(0, 1));
  advance(1);
  return Step::more;
}

// After markup that is no call: to the next tag that makes sense.
DsmlBlockParser::Step DsmlBlockParser::step_recover() {
  const size_t at = input_.buffer.find('<', input_.pos);
  advance(std::min(at, input_.buffer.size()) - input_.pos, ParserSpan::Kind::discarded);
  if (input_.at_end()) return Step::starved;
  const TagMatch invoke = tags_->invoke_open.match(input_.rest());
  const TagMatch close = tags_->calls_close.match(input_.rest());
  if (invoke.kind == TagMatch::Kind::full || close.kind == TagMatch::Kind::full) {
    space_ = "\n";
    state_ = State::between;
    return Step::more;
  }
  if (invoke.kind == TagMatch::Kind::partial || close.kind == TagMatch::Kind::partial)
    return Step::starved;
  advance(1, ParserSpan::Kind::discarded);
  return Step::more;
}

void DsmlBlockParser::believe() {
  if (!recorder_.tentative()) return;
  // Where markup is likely to be quoted, only what is complete counts: the whole block in
  // reasoning, the call in the others.
  if (start_ == Start::block_in_reasoning) return;
  if ((start_ == Start::bare_invoke || is_plain_) && in_call_) return;
  commit();
}

void DsmlBlockParser::start_call() {
  if (call_.is_started) return;
  if (!call_.is_offered) recorder_.report(Deviation::unknown_tool, call_.begin, call_.name);
  // Spans carry this call's index already.
  recorder_.start_call(valid_utf8(call_.name));
  call_.is_started = true;
  believe();
}

void DsmlBlockParser::begin_parameter(OpenTag tag) {
  parameter_ = Parameter();
  parameter_.key = std::move(tag.name);
  parameter_.is_string = tag.is_string;
  start_call();
  if (!call_.keys.insert(parameter_.key).second) {
    recorder_.report(Deviation::duplicate_parameter, input_.offset(input_.pos), parameter_.key);
  }
  if (!tag.is_string) {
    recorder_.report(Deviation::missing_string_attribute, input_.offset(input_.pos),
                     parameter_.key);
  }
  const bool is_wrapper_name = parameter_.key == "arguments" || parameter_.key == "input";
  parameter_.may_wrap = is_wrapper_name && call_.num_parameters == 0 && call_.schema.is_known() &&
                        !call_.schema.has(parameter_.key);
  parameter_.streams =
      !parameter_.may_wrap && tag.is_string.value_or(call_.schema.is_string(parameter_.key));
  if (parameter_.streams) {
    send_key(parameter_.key);
    recorder_.arguments("\"");
  }
  ++call_.num_parameters;
}

void DsmlBlockParser::value_text(std::string_view text) {
  if (!parameter_.streams) {
    parameter_.value += text;
    return;
  }
  std::string valid;
  parameter_.utf8.push(text, valid);
  std::string escaped;
  append_json_escaped(escaped, valid);
  recorder_.arguments(escaped);
}

void DsmlBlockParser::end_parameter() {
  if (parameter_.may_wrap) {
    has_wrapped_ = true;  // whether it stands alone is known at the next tag
    return;
  }
  if (parameter_.streams) {
    std::string valid;
    parameter_.utf8.finish(valid);
    recorder_.arguments(valid + "\"");
    return;
  }
  bool coerced = false;
  const std::string json = call_.schema.json_value(parameter_.key, parameter_.value, coerced);
  if (coerced && parameter_.is_string) {
    recorder_.report(Deviation::bad_json_value, input_.offset(input_.pos), parameter_.key);
  }
  send_parameter(parameter_.key, json);
}

void DsmlBlockParser::send_key(const std::string& key) {
  std::string fragment = recorder_.calls().back().arguments.empty() ? "{" : ", ";
  fragment += quoted_utf8(key) + ": ";
  recorder_.arguments(fragment);
}

void DsmlBlockParser::send_parameter(const std::string& key, std::string_view json) {
  send_key(key);
  recorder_.arguments(json);
}

void DsmlBlockParser::settle_wrapped(bool is_last) {
  if (!has_wrapped_) return;
  has_wrapped_ = false;
  if (is_last) {
    const auto members = parse_python_object(parameter_.value, parameter_.key);
    const bool fits =
        members.has_value() && !members->empty() &&
        std::all_of(members->begin(), members->end(), [this](const PythonJsonMember& member) {
          return call_.schema.has(member.key);
        });
    if (fits) {
      recorder_.report(Deviation::wrapped_arguments, input_.offset(input_.pos), parameter_.key);
      call_.keys.clear();
      for (const PythonJsonMember& member : *members) {
        call_.keys.insert(member.key);
        send_parameter(member.key, member.is_string ? json_quoted(member.text) : member.text);
      }
      return;
    }
  }
  parameter_.may_wrap = false;
  if (parameter_.is_string.value_or(false)) {
    send_parameter(parameter_.key, quoted_utf8(parameter_.value));
  } else {
    end_parameter();
  }
}

DsmlBlockParser::Step DsmlBlockParser::end_call() {
  recorder_.end_call(true, std::move(call_.raw));
  in_call_ = false;
  had_call_ = true;
  state_ = State::between;
  if (start_ != Start::block && !call_.is_offered) return Step::rejected;
  if (start_ == Start::bare_invoke && !call_.schema.required_in(call_.keys)) return Step::rejected;
  believe();
  return Step::more;
}

// The open call goes no further. What was sent of it stays valid JSON.
void DsmlBlockParser::break_call(Deviation why) {
  recorder_.report(why, call_.begin, call_.name);
  if (call_.is_started) {
    if (state_ == State::value && parameter_.streams) {
      std::string valid;
      parameter_.utf8.finish(valid);
      recorder_.arguments(valid + "\"");
    }
    recorder_.arguments(recorder_.calls().back().arguments.empty() ? "{}" : "}");
    recorder_.end_call(false, std::move(call_.raw));
  } else {
    recorder_.discard_next_call();
  }
  in_call_ = false;
}

DsmlBlockParser::Step DsmlBlockParser::violation() {
  if (recorder_.tentative()) return Step::rejected;
  if (start_ == Start::bare_invoke) return close_block();
  if (in_call_) {
    break_call(Deviation::malformed_call);
  } else {
    recorder_.report(Deviation::malformed_call, input_.offset(input_.pos));
  }
  state_ = State::recover;
  return Step::more;
}

DsmlBlockParser::Step DsmlBlockParser::close_block() {
  commit();
  return Step::closed;
}

DsmlBlockParser::Step DsmlBlockParser::finish() {
  if (recorder_.tentative() && (start_ != Start::block || is_plain_)) return Step::rejected;
  // What is left is the beginning of a tag or of a call.
  const ParserSpan::Kind rest = in_call_ ? ParserSpan::Kind::call : ParserSpan::Kind::discarded;
  const bool is_inside_tag = !input_.at_end();
  advance(input_.rest().size(), rest);
  if (in_call_) {
    break_call(Deviation::truncated_call);
  } else if (is_inside_tag || !had_call_) {
    recorder_.report(Deviation::truncated_call, input_.offset(input_.pos));
  }
  recorder_.report(Deviation::missing_block_end, input_.offset(input_.pos));
  return close_block();
}

}  // namespace cachalot::text
