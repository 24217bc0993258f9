#include "apps/chat_session.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/detokenizer.h"

namespace cachalot::apps {

using engine::Completion;
using engine::Event;
using engine::Finish;

Result<Completion> ChatSession::run(std::span<const int32_t> prompt, int64_t max_tokens,
                                    const std::function<bool(const Event&)>& on_event) {
  engine::Request request;
  request.prompt.assign(prompt.begin(), prompt.end());
  request.sampling = sampling_;
  request.max_new_tokens = max_tokens;
  request.num_drafts = limits_.drafts;
  request.stop_tokens = stop_tokens_;
  request.on_event = on_event;
  return engine_.generate(cache_.live(), std::move(request));
}

Status ChatSession::prefill(const text::ChatPrompt& prompt, const Callbacks& callbacks) {
  const auto on_event = [&](const Event& event) {
    if (event.kind == Event::Kind::prefill && callbacks.on_prefill)
      callbacks.on_prefill(event.done_tokens, event.total_tokens);
    return !callbacks.keep_going || callbacks.keep_going();
  };
  for (bool is_second_try = false;; is_second_try = true) {
    CACHALOT_ASSIGN_OR_RETURN(const int64_t shared, cache_.place(prompt.ids));
    const Result<Completion> ran =
        run(std::span(prompt.ids).subspan(static_cast<size_t>(shared)), 0, on_event);
    if (ran) {
      // Kept by the conversation, or found in the prefix cache.
      stats_.cached_tokens = ran->prompt_tokens == 0
                                 ? 0
                                 : static_cast<int64_t>(prompt.ids.size()) - ran->prompt_tokens;
      stats_.prefill_seconds = ran->prefill_seconds;
      stats_.finish = ran->finish;
      return {};
    }
    // Earlier places may hold the blocks that this prompt lacks.
    if (is_second_try || ran.error().code() != StatusCode::resource_exhausted) return ran.error();
    cache_.clear();
  }
}

Status ChatSession::decode(bool starts_in_reasoning, const Callbacks& callbacks) {
  text::CompletionParserOptions options;
  options.family = style.family;
  options.starts_in_reasoning = starts_in_reasoning;
  CACHALOT_ASSIGN_OR_RETURN(options.tools, text::offered_tools(conversation.tools, style.family));
  text::CompletionParser parser(std::move(options));
  text::Detokenizer detokenizer(tokenizer_, text::Detokenizer::Controls::hidden);
  std::vector<text::CompletionEvent> events;
  const auto send = [&] {
    for (const text::CompletionEvent& event : events) {
      if (callbacks.on_event) callbacks.on_event(event);
    }
    events.clear();
  };
  std::string piece;
  const auto on_event = [&](const Event& event) {
    if (event.kind == Event::Kind::token) {
      piece.clear();
      // The model's vocabulary may be larger than the tokenizer's.
      if (!detokenizer.push(event.token, piece).ok()) piece = "\xEF\xBF\xBD";
      parser.feed(piece, events);
      send();
    }
    return !callbacks.keep_going || callbacks.keep_going();
  };
  const int64_t room = engine_.max_context_tokens() - context_tokens();
  const int64_t max_tokens = limits_.max_tokens > 0 ? std::min(limits_.max_tokens, room) : room;
  CACHALOT_ASSIGN_OR_RETURN(const Completion completion, run({}, max_tokens, on_event));
  piece.clear();
  detokenizer.finish(piece);
  parser.feed(piece, events);
  parser.finish(completion.finish == Finish::stop ? text::FinishCause::end_of_turn
                                                  : text::FinishCause::length_limit,
                events);
  send();

  stats_.answer_tokens = static_cast<int64_t>(completion.ids.size());
  stats_.decode_seconds = completion.decode_seconds;
  stats_.drafted = completion.drafted;
  stats_.accepted = completion.accepted;
  stats_.finish = completion.finish;
  if (completion.finish == Finish::cancelled && completion.ids.empty()) return {};
  text::Message message = make_message(text::Role::assistant, parser.content());
  message.reasoning_content = parser.reasoning();
  for (const text::ParsedCall& call : parser.calls()) {
    if (call.complete) message.tool_calls.push_back({call.id, call.name, "", call.arguments});
  }
  conversation.messages.push_back(std::move(message));
  return {};
}

Status ChatSession::answer(const Callbacks& callbacks) {
  stats_ = {};
  CACHALOT_ASSIGN_OR_RETURN(const text::ChatPrompt prompt,
                            text::chat_prompt(tokenizer_, conversation.request(), style));
  stats_.prompt_tokens = static_cast<int64_t>(prompt.ids.size());
  if (stats_.prompt_tokens >= engine_.max_context_tokens()) {
    return resource_exhausted(fmt::format(
        "conversation: expected fewer than {} tokens, found {}; /undo or /clear makes room",
        engine_.max_context_tokens(), stats_.prompt_tokens));
  }
  Status status = prefill(prompt, callbacks);
  if (status.ok() && stats_.finish != Finish::cancelled) {
    cache_.mark();
    status = decode(prompt.ends_in_reasoning, callbacks);
  }
  // What a step that failed has left in the rows is not to be built upon.
  if (!status.ok()) cache_.clear();
  return status;
}

}  // namespace cachalot::apps
