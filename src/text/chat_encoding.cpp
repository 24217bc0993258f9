#include "text/chat_encoding.h"

#include <fmt/format.h>

#include <array>
#include <optional>

#include "base/python_json.h"
#include "text/chat_literals.h"
#include "text/chat_said.h"
#include "text/chat_turns.h"
#include "text/dsml_markup.h"

namespace cachalot::text {
namespace {

// What "high" adds in v4-0731 and "max" in v4 (reference/chat 2.4, text A).
constexpr std::string_view kEffortTextA =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "
    "resolve the root "
    "cause, rigorously stress-testing your logic against all potential paths, edge cases, and "
    "adversarial "
    "scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, "
    "considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left "
    "unchecked.\n\n";
// "max" in v4-0731 (text B).
constexpr std::string_view kEffortTextB =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "
    "exhaustively "
    "decompose the problem into its most fundamental components, trace every causal chain to its "
    "root, and "
    "resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles "
    "and are "
    "certain that no assumption remains unchecked and no error remains undiscovered.\n\n";

constexpr std::array kTasks = {"action", "query", "authority", "domain", "title", "read_url"};

Result<std::string> effort_text(const EncodeOptions& options) {
  using Level = ReasoningEffort::Level;
  const Level level = options.effort.level;
  switch (options.family) {
    case PromptFamily::v4:
      if (level == Level::low || level == Level::budget) break;
      return std::string(level == Level::max ? kEffortTextA : "");
    case PromptFamily::v4_0731:
      if (level == Level::budget) break;
      if (level == Level::high) return std::string(kEffortTextA);
      return std::string(level == Level::max ? kEffortTextB : "");
    case PromptFamily::v4_1: {
      int budget = 75;  // high, and unset
      if (level == Level::low) budget = 50;
      if (level == Level::max) budget = 100;
      if (level == Level::budget) budget = options.effort.budget;
      if (budget < 1 || budget > 100) {
        return invalid_argument(
            fmt::format("reasoning effort: expected a number from 1 to 100, found {}", budget));
      }
      return fmt::format(
          "Reasoning Effort: {} (range 1-100, the higher the value, the more thorough the "
          "reasoning)\n\n",
          budget);
    }
  }
  return invalid_argument(
      fmt::format("reasoning effort: expected {}high or max in family {}, found {}",
                  options.family == PromptFamily::v4 ? "" : "low, ",
                  prompt_family_name(options.family), level == Level::low ? "low" : "a number"));
}

Status check_task(const std::string& task, std::string_view where) {
  for (const std::string_view known : kTasks) {
    if (task == known) return {};
  }
  return invalid_argument(fmt::format(
      "{}.task: expected action, query, authority, domain, title or read_url, found \"{}\"", where,
      task));
}

// An empty value is no format, as in the reference.
bool is_given(const std::optional<json::value>& format) {
  if (!format) return false;
  switch (format->kind()) {
    case json::kind::null: return false;
    case json::kind::bool_: return format->get_bool();
    case json::kind::string: return !format->get_string().empty();
    case json::kind::array: return !format->get_array().empty();
    case json::kind::object: return !format->get_object().empty();
    default: return format->to_number<double>() != 0;
  }
}

// Renders turns one after another; the rules of each line are those of reference/chat 2.1 to 2.9
// and 2.12.
class Renderer {
 public:
  Renderer(const Turns& turns, const EncodeOptions& options, std::string effort_text)
      : turns_(turns), options_(options), effort_text_(std::move(effort_text)) {}

  Result<SaidPrompt> run() {
    if (options_.add_bos && options_.num_context_messages == 0) out_.control(kBos);
    for (size_t i = turns_.num_context; i < turns_.turns.size(); ++i) {
      CACHALOT_RETURN_IF_ERROR(render(i));
    }
    SaidPrompt made;
    made.prompt.segments = out_.take();
    made.prompt.images = std::move(images_);
    made.prompt.ends_in_reasoning = in_reasoning_;
    made.said = std::move(said_);
    made.drops_reasoning = options_.thinking && turns_.drop_thinking;
    return made;
  }

 private:
  bool is_v41() const { return options_.family == PromptFamily::v4_1; }

  Status render(size_t idx) {
    const Turn& turn = turns_.turns[idx];
    const std::string where = fmt::format("messages[{}]", turn.message_idx);
    if (idx == 0) {
      const bool has_effort = options_.thinking && !effort_text_.empty();
      if (is_v41() && (has_effort || turn.role == Role::system)) out_.control(kSystemToken);
      if (has_effort) out_.text(effort_text_);
    } else if (is_v41() && turn.role == Role::system) {
      out_.control(kSystemToken);
    }
    in_reasoning_ = false;
    switch (turn.role) {
      case Role::system: CACHALOT_RETURN_IF_ERROR(render_instructions(turn, where)); break;
      case Role::developer:
        if (is_v41()) {
          return invalid_argument(fmt::format(
              "{}.role: expected no developer message in family v4.1, found one", where));
        }
        if (turn.content.text.empty()) {
          return invalid_argument(
              fmt::format("{}.content: expected text in a developer message, found none", where));
        }
        out_.control(kUserToken);
        CACHALOT_RETURN_IF_ERROR(render_instructions(turn, where));
        break;
      case Role::user: render_user(turn); break;
      case Role::latest_reminder:
        out_.control(kLatestReminderToken);
        write(turn.content);
        break;
      case Role::assistant: {
        const size_t begin = out_.segments().size();
        CACHALOT_RETURN_IF_ERROR(render_assistant(turn, idx, where));
        said_.push_back({begin, out_.segments().size(), turn.message_idx});
        break;
      }
      case Role::tool: break;  // build_turns leaves none
    }
    return render_transition(turn, idx, where);
  }

  void write(const TurnText& content) {
    std::string_view rest = content.text;
    for (const std::string& image : content.images) {
      const size_t at = rest.find(kImagePlaceholder);
      out_.text(rest.substr(0, at));
      out_.control(kImagePlaceholder);
      images_.push_back(image);
      rest.remove_prefix(at + kImagePlaceholder.size());
    }
    out_.text(rest);
  }

  Status render_instructions(const Turn& turn, std::string_view where) {
    write(turn.content);
    if (turn.has_tools) {
      out_.text("\n\n");
      CACHALOT_RETURN_IF_ERROR(write_dsml_tools(turn.message->tools, options_.family, where, out_));
    }
    if (is_given(turn.message->response_format)) {
      out_.text(
          "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to "
          "reply:\n");
      out_.text(python_json(*turn.message->response_format));
    }
    return {};
  }

  void render_user(const Turn& turn) {
    out_.control(kUserToken);
    std::string_view separator;
    for (const TurnBlock& block : turn.blocks) {
      out_.text(separator);
      separator = "\n\n";
      if (block.is_tool_result) out_.text("<tool_result>");
      write(block.content);
      if (block.is_tool_result) out_.text("</tool_result>");
    }
  }

  Status render_assistant(const Turn& turn, size_t idx, std::string_view where) {
    // The answer to a quick instruction has no reasoning part.
    const bool answers_task = idx > 0 && turns_.turns[idx - 1].task();
    const bool after_last_user = turns_.last_user == turns_.turns.size() || idx > turns_.last_user;
    if (options_.thinking && !answers_task && (!turns_.drop_thinking || after_last_user)) {
      out_.text(turn.reasoning_content);
      if (turn.message->wo_eos && turn.message->open_reasoning) {
        in_reasoning_ = true;
        return {};
      }
      out_.control(kThinkEnd);
    }
    write(turn.content);
    CACHALOT_RETURN_IF_ERROR(
        write_dsml_calls(turn.message->tool_calls, options_.family, where, out_));
    if (!turn.message->wo_eos) out_.control(kEos);
    return {};
  }

  Status render_transition(const Turn& turn, size_t idx, std::string_view where) {
    if (idx + 1 < turns_.turns.size()) {
      const Role next = turns_.turns[idx + 1].role;
      if (next != Role::assistant && next != Role::latest_reminder) return {};
    }
    if (const std::string* task = turn.task()) {
      CACHALOT_RETURN_IF_ERROR(check_task(*task, where));
      if (*task == "action") {
        out_.control(kAssistantToken);
        out_.control(options_.thinking ? kThinkStart : kThinkEnd);
      }
      out_.control("<｜" + *task + "｜>");
      return {};
    }
    if (!asks(turn, idx, options_.family)) return {};
    out_.control(kAssistantToken);
    in_reasoning_ = options_.thinking && (!turns_.drop_thinking || idx >= turns_.last_user);
    out_.control(in_reasoning_ ? kThinkStart : kThinkEnd);
    return {};
  }

  const Turns& turns_;
  const EncodeOptions& options_;
  const std::string effort_text_;
  PromptWriter out_;
  std::vector<SaidSegments> said_;
  std::vector<std::string> images_;
  bool in_reasoning_ = false;
};

}  // namespace

std::string EncodedPrompt::flat() const {
  std::string out;
  for (const PromptSegment& segment : segments) out += segment.text;
  return out;
}

std::vector<Segment> EncodedPrompt::views() const {
  std::vector<Segment> out;
  out.reserve(segments.size());
  for (const PromptSegment& segment : segments) {
    out.push_back({segment.kind == PromptSegment::Kind::control ? Segment::Kind::control
                                                                : Segment::Kind::text,
                   segment.text});
  }
  return out;
}

Result<SaidPrompt> encode_said(const std::vector<Message>& messages, const EncodeOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(std::string effort, effort_text(options));
  CACHALOT_ASSIGN_OR_RETURN(const Turns turns, build_turns(messages, options));
  return Renderer(turns, options, std::move(effort)).run();
}

Result<EncodedPrompt> encode_chat(const std::vector<Message>& messages,
                                  const EncodeOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(SaidPrompt made, encode_said(messages, options));
  return std::move(made.prompt);
}

EncodedPrompt encode_fim(std::string_view prefix, std::string_view suffix) {
  PromptWriter out;
  out.control(kBos);
  out.control(kFimBegin);
  out.text(prefix);
  out.control(kFimHole);
  out.text(suffix);
  out.control(kFimEnd);
  return {out.take(), {}, false};
}

EncodedPrompt encode_raw(std::string_view prompt) {
  PromptWriter out;
  out.control(kBos);
  out.text(prompt.starts_with(kBos) ? prompt.substr(kBos.size()) : prompt);
  return {out.take(), {}, false};
}

}  // namespace cachalot::text
