#include "data/conversation_samples.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "formats/json_fields.h"
#include "text/chat_literals.h"
#include "text/chat_normalize.h"
#include "text/chat_said.h"

namespace cachalot::data {
namespace {

using text::Message;
using text::Role;

constexpr double kMostWeight = 1e6;
constexpr char kAuto[] = "auto";

bool is_assistant(const Message& message) { return message.role == Role::assistant; }

Status read_weight(const json::object& object, const std::string& where, double* weight) {
  const json::value* value = object.if_contains("weight");
  if (value == nullptr || value->is_null()) return {};
  double read = -1;
  if (value->is_number()) read = value->to_number<double>();
  if (!(read >= 0 && read <= kMostWeight)) {
    return invalid_argument(fmt::format("{}weight: expected a number from 0 to {}, found {}", where,
                                        kMostWeight, formats::json_excerpt(*value)));
  }
  *weight = read;
  return {};
}

struct Row {
  text::ChatRequest request;
  double weight = 1;
  std::vector<double> answer_weights;  // of the assistant's messages
  std::string effort;
};

Result<Row> read_row(const json::value& value, const ConversationOptions& options) {
  Row row;
  CACHALOT_ASSIGN_OR_RETURN(row.request, text::parse_chat_request(value));
  row.effort = options.effort;
  const json::array* messages = value.if_array();
  if (const json::object* object = value.if_object()) {
    messages = object->at("messages").if_array();
    CACHALOT_RETURN_IF_ERROR(read_weight(*object, "", &row.weight));
    for (const char* key : {"reasoning_effort", "effort"}) {
      const json::value* effort = object->if_contains(key);
      if (effort == nullptr || effort->is_null()) continue;
      if (!effort->is_string()) {
        return invalid_argument(
            fmt::format("{}: expected a string, found {}", key, json_kind_name(*effort)));
      }
      row.effort = std::string_view(effort->get_string());
    }
  }
  for (size_t i = 0; i < row.request.messages.size(); ++i) {
    if (!is_assistant(row.request.messages[i])) continue;
    CACHALOT_RETURN_IF_ERROR(read_weight(messages->at(i).get_object(),
                                         fmt::format("messages[{}].", i),
                                         &row.answer_weights.emplace_back(1)));
  }
  return row;
}

// Behind other messages there is no header, and nobody whom the assistant answers.
Status check_order(const std::vector<Message>& messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!is_assistant(messages[i])) continue;
    const Message* before = i == 0 ? nullptr : &messages[i - 1];
    const bool asks =
        before != nullptr && (before->role == Role::user || before->role == Role::tool ||
                              before->role == Role::developer || before->task ||
                              (before->role == Role::system && i > 1));
    if (asks) continue;
    return invalid_argument(fmt::format(
        "messages[{}]: expected a user or tool message before the assistant's, found {}", i,
        before == nullptr ? "none" : text::role_name(before->role)));
  }
  return {};
}

class Conversation {
 public:
  Conversation(const text::Tokenizer& tokenizer, const ConversationOptions& options,
               std::vector<Message> messages, const Row& row)
      : tokenizer_(tokenizer),
        options_(options),
        messages_(std::move(messages)),
        row_(row),
        message_weights_(messages_.size(), 0) {
    size_t next = 0;
    for (size_t i = 0; i < messages_.size(); ++i)
      if (is_assistant(messages_[i])) message_weights_[i] = row.answer_weights[next++];
  }

  Result<std::vector<ConversationSample>> samples() {
    text::ClientEffort effort;
    if (row_.effort != kAuto) {
      CACHALOT_ASSIGN_OR_RETURN(effort, text::resolve_client_effort(row_.effort, options_.family));
    } else {
      CACHALOT_ASSIGN_OR_RETURN(effort, text::resolve_client_effort("", options_.family));
      effort.thinking = std::ranges::any_of(messages_, has_reasoning);
    }
    CACHALOT_ASSIGN_OR_RETURN(const text::SaidPrompt whole, encode(messages_, effort));
    if (!whole.drops_reasoning) {
      add(whole, message_weights_, effort.thinking);
      return std::move(samples_);
    }
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (message_weights_[i] == 0) continue;
      text::ClientEffort own = effort;
      if (row_.effort == kAuto) own.thinking = has_reasoning(messages_[i]);
      const std::vector<Message> until(messages_.begin(),
                                       messages_.begin() + static_cast<ptrdiff_t>(i) + 1);
      std::vector<double> weights(until.size(), 0);
      weights[i] = message_weights_[i];
      CACHALOT_ASSIGN_OR_RETURN(const text::SaidPrompt turn, encode(until, own));
      add(turn, weights, own.thinking);
    }
    return std::move(samples_);
  }

 private:
  static bool has_reasoning(const Message& message) {
    return is_assistant(message) && !message.reasoning_content.empty();
  }

  Result<text::SaidPrompt> encode(const std::vector<Message>& messages,
                                  const text::ClientEffort& effort) const {
    text::EncodeOptions encode;
    encode.family = options_.family;
    encode.thinking = effort.thinking;
    if (effort.thinking) encode.effort = effort.effort;
    return text::encode_said(messages, encode);
  }

  void add(const text::SaidPrompt& made, std::span<const double> weights, bool thinking) {
    const std::vector<text::Segment> segments = made.prompt.views();
    ConversationSample sample;
    sample.thinking = thinking;
    double total = 0;
    // What is said lies between control tokens, so that its text is cut alike alone.
    const auto append = [&](size_t begin, size_t end, double weight) {
      const std::vector<int32_t> ids =
          tokenizer_.encode_segments(std::span(segments).subspan(begin, end - begin));
      sample.ids.insert(sample.ids.end(), ids.begin(), ids.end());
      sample.weights.resize(sample.ids.size(), static_cast<float>(weight * row_.weight));
      total += weight * static_cast<double>(ids.size());
    };
    size_t done = 0;
    for (const text::SaidSegments& said : made.said) {
      append(done, said.begin, 0);
      append(said.begin, said.end, weights[said.message]);
      done = said.end;
    }
    append(done, segments.size(), 0);
    if (total == 0 || row_.weight == 0) return;
    if (options_.mean == TargetMean::samples) {
      for (float& weight : sample.weights)
        weight = static_cast<float>(static_cast<double>(weight) / total);
    }
    samples_.push_back(std::move(sample));
  }

  const text::Tokenizer& tokenizer_;
  const ConversationOptions& options_;
  const std::vector<Message> messages_;
  const Row& row_;
  std::vector<double> message_weights_;  // 0 of those that are not the assistant's
  std::vector<ConversationSample> samples_;
};

}  // namespace

Result<std::vector<ConversationSample>> conversation_samples(const text::Tokenizer& tokenizer,
                                                             const json::value& row_value,
                                                             const ConversationOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(Row row, read_row(row_value, options));
  if (row.answer_weights.empty())
    return invalid_argument("messages: expected an assistant's message to learn from, found none");
  text::NormalizeOptions normalize;
  normalize.family = options.family;
  normalize.trailing_assistant = text::NormalizeOptions::TrailingAssistant::keep;
  normalize.check_tool_ids = std::ranges::any_of(
      row.request.messages, [](const Message& m) { return !m.tool_call_id.empty(); });
  CACHALOT_ASSIGN_OR_RETURN(std::vector<Message> messages,
                            text::normalize_messages(std::move(row.request), normalize));
  CACHALOT_RETURN_IF_ERROR(check_order(messages));
  return Conversation(tokenizer, options, std::move(messages), row).samples();
}

Status check_conversation_tokens(const text::Tokenizer& tokenizer) {
  for (const std::string_view control :
       {text::kBos, text::kEos, text::kUserToken, text::kAssistantToken, text::kThinkStart,
        text::kThinkEnd}) {
    const auto tokens = tokenizer.added_tokens();
    if (std::ranges::any_of(tokens,
                            [&](const text::AddedToken& t) { return t.content == control; }))
      continue;
    return invalid_argument(fmt::format(
        "tokenizer: expected the control token {} of conversations, found none", control));
  }
  return {};
}

}  // namespace cachalot::data
