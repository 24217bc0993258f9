#include "text/chat_turns.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "text/chat_literals.h"

namespace cachalot::text {
namespace {

constexpr std::string_view kBlankLine = "\n\n";

void append_joined(std::string& out, bool& first, std::string_view piece) {
  if (!first) out += kBlankLine;
  out += piece;
  first = false;
}

Status refuse_placeholder(std::string_view text, std::string_view where) {
  if (text.find(kImagePlaceholder) == std::string_view::npos) return {};
  return invalid_argument(fmt::format("{}: expected images as content parts, found the text \"{}\"",
                                      where, kImagePlaceholder));
}

// A list as one string. In v4.1 an image part stands as its placeholder and other parts fall away;
// before it, anything but text is named in brackets.
TurnText joined_parts(const Message& message, PromptFamily family) {
  if (!message.has_parts) return {message.content, {}};
  TurnText out;
  bool first = true;
  for (const ContentPart& part : message.parts) {
    if (part.kind == ContentPart::Kind::text) {
      append_joined(out.text, first, part.text);
    } else if (family != PromptFamily::v4_1) {
      append_joined(out.text, first, fmt::format("[Unsupported {}]", part.type));
    } else if (part.kind == ContentPart::Kind::image) {
      append_joined(out.text, first, kImagePlaceholder);
      out.images.push_back(part.text);
    }
  }
  return out;
}

Status check_text(const Message& message, size_t idx, PromptFamily family) {
  const std::string where = fmt::format("messages[{}]", idx);
  if (family != PromptFamily::v4_1) {
    if (message.has_parts && message.role != Role::tool) {
      return invalid_argument(
          fmt::format("{}.content: expected a string in family {}, found a list", where,
                      prompt_family_name(family)));
    }
    return {};
  }
  CACHALOT_RETURN_IF_ERROR(refuse_placeholder(message.content, where + ".content"));
  CACHALOT_RETURN_IF_ERROR(
      refuse_placeholder(message.reasoning_content, where + ".reasoning_content"));
  for (size_t i = 0; i < message.parts.size(); ++i) {
    const ContentPart& part = message.parts[i];
    if (part.kind == ContentPart::Kind::image && part.text.empty()) {
      return invalid_argument(fmt::format(
          "{}.content[{}]: expected an image with a URL or data, found none", where, i));
    }
    if (part.kind != ContentPart::Kind::text) continue;
    CACHALOT_RETURN_IF_ERROR(
        refuse_placeholder(part.text, fmt::format("{}.content[{}].text", where, i)));
  }
  return {};
}

std::vector<TurnBlock> user_blocks(const Message& message) {
  std::vector<TurnBlock> blocks;
  if (!message.has_parts) blocks.emplace_back().content.text = message.content;
  for (const ContentPart& part : message.parts) {
    TurnText& content = blocks.emplace_back().content;
    switch (part.kind) {
      case ContentPart::Kind::text: content.text = part.text; break;
      case ContentPart::Kind::image: content = {std::string(kImagePlaceholder), {part.text}}; break;
      case ContentPart::Kind::other:
        content.text = fmt::format("[Unsupported {}]", part.type);
        break;
    }
  }
  return blocks;
}

// Step 1 for messages [begin, end).
Status merge(const std::vector<Message>& messages, size_t begin, size_t end, PromptFamily family,
             std::vector<Turn>& turns) {
  const size_t first_turn = turns.size();
  for (size_t i = begin; i < end; ++i) {
    const Message& message = messages[i];
    CACHALOT_RETURN_IF_ERROR(check_text(message, i, family));
    Turn* last = turns.size() > first_turn ? &turns.back() : nullptr;
    const bool last_is_user = last && last->role == Role::user;
    if (message.role == Role::tool) {
      if (!last_is_user) {
        last = &turns.emplace_back();
        last->message_idx = i;
      }
      last->blocks.push_back({.is_tool_result = true,
                              .tool_call_id = message.tool_call_id,
                              .content = joined_parts(message, family)});
      continue;
    }
    if (message.role == Role::user) {
      std::vector<TurnBlock> blocks = user_blocks(message);
      if (last_is_user && !last->task()) {
        std::move(blocks.begin(), blocks.end(), std::back_inserter(last->blocks));
        continue;
      }
      Turn& turn = turns.emplace_back();
      turn.message = &message;
      turn.message_idx = i;
      turn.blocks = std::move(blocks);
      // The v4 merge step rebuilds user messages and keeps their task and wo_eos only.
      turn.has_tools = family == PromptFamily::v4_1 && !message.tools.empty();
      continue;
    }
    Turn& turn = turns.emplace_back();
    turn.message = &message;
    turn.message_idx = i;
    turn.role = message.role;
    turn.reasoning_content = message.reasoning_content;
    turn.has_tools = !message.tools.empty();
    turn.content = joined_parts(message, family);
  }
  return {};
}

// Step 2: tool results of a turn in the order of the calls that they answer.
void sort_tool_results(std::vector<Turn>& turns) {
  std::unordered_map<std::string_view, size_t> order;
  for (Turn& turn : turns) {
    if (turn.role == Role::assistant && turn.message && !turn.message->tool_calls.empty()) {
      order.clear();
      const std::vector<ToolCall>& calls = turn.message->tool_calls;
      for (size_t i = 0; i < calls.size(); ++i) {
        if (!calls[i].id.empty()) order[calls[i].id] = i;
      }
    } else if (turn.role == Role::user && !order.empty()) {
      std::vector<TurnBlock> results;
      for (const TurnBlock& block : turn.blocks) {
        if (block.is_tool_result) results.push_back(block);
      }
      const auto place = [&](const TurnBlock& block) {
        const auto found = order.find(block.tool_call_id);
        return found == order.end() ? 0 : found->second;
      };
      std::stable_sort(results.begin(), results.end(),
                       [&](const TurnBlock& a, const TurnBlock& b) { return place(a) < place(b); });
      size_t next = 0;
      for (TurnBlock& block : turn.blocks) {
        if (block.is_tool_result) block = std::move(results[next++]);
      }
    }
  }
}

size_t find_last_user(const std::vector<Turn>& turns, PromptFamily family) {
  for (size_t i = turns.size(); i-- > 0;) {
    if (asks(turns[i], i, family)) return i;
  }
  return turns.size();
}

// Step 4: before the last turn that asks, reasoning goes, and so do developer turns.
std::vector<Turn> drop_earlier_thinking(std::vector<Turn> turns, PromptFamily family) {
  const size_t last_user = find_last_user(turns, family);
  if (last_user == turns.size()) return turns;
  std::vector<Turn> kept;
  for (size_t i = 0; i < turns.size(); ++i) {
    if (i < last_user) {
      if (turns[i].role == Role::developer) continue;
      if (turns[i].role == Role::assistant) turns[i].reasoning_content.clear();
    }
    kept.push_back(std::move(turns[i]));
  }
  return kept;
}

}  // namespace

bool asks(const Turn& turn, size_t turn_idx, PromptFamily family) {
  if (turn.role == Role::user) return true;
  return family == PromptFamily::v4_1 ? turn.role == Role::system && turn_idx > 0
                                      : turn.role == Role::developer;
}

Result<Turns> build_turns(const std::vector<Message>& messages, const EncodeOptions& options) {
  if (options.num_context_messages > messages.size()) {
    return invalid_argument(fmt::format("context: expected at most {} messages, found {}",
                                        messages.size(), options.num_context_messages));
  }
  Turns out;
  CACHALOT_RETURN_IF_ERROR(
      merge(messages, 0, options.num_context_messages, options.family, out.turns));
  out.num_context = out.turns.size();
  CACHALOT_RETURN_IF_ERROR(
      merge(messages, options.num_context_messages, messages.size(), options.family, out.turns));
  sort_tool_results(out.turns);

  out.drop_thinking =
      options.drop_thinking && std::none_of(out.turns.begin(), out.turns.end(),
                                            [](const Turn& turn) { return turn.has_tools; });
  if (options.thinking && out.drop_thinking) {
    // The context was encoded on its own, so it is as long as dropping on its own left it.
    const std::vector<Turn> context(out.turns.begin(),
                                    out.turns.begin() + static_cast<ptrdiff_t>(out.num_context));
    const size_t num_context = drop_earlier_thinking(context, options.family).size();
    out.turns = drop_earlier_thinking(std::move(out.turns), options.family);
    out.num_context = std::min(num_context, out.turns.size());
  }
  out.last_user = find_last_user(out.turns, options.family);
  return out;
}

}  // namespace cachalot::text
