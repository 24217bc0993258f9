#include "apps/chat.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "apps/chat_session.h"
#include "apps/chat_view.h"
#include "apps/interrupts.h"
#include "apps/line_editor.h"
#include "apps/terminal.h"
#include "base/env.h"
#include "base/file.h"
#include "base/json.h"
#include "text/chat_encoding.h"

namespace cachalot::apps {
namespace {

using engine::Finish;

class Chat {
 public:
  Chat(const ChatOptions& options, const ChatDefaults& defaults, Session& session,
       engine::SamplingParams sampling)
      : options_(options),
        defaults_(defaults),
        session_(session),
        chat_(session, std::move(sampling),
              {options.max_tokens.value_or(defaults.max_tokens), options.run.drafts}) {}

  Status run();

 private:
  struct Command {
    const char* name;
    const char* argument;
    const char* help;
    void (Chat::*act)(const std::string& argument);
  };
  static const std::vector<Command>& commands();
  static std::vector<std::string> command_names();

  Status prepare();
  Status offer_examples();
  std::optional<std::string> picked_example(const std::string& line) const;
  std::optional<std::string> read_message(LineEditor& editor);  // nothing: the end
  void obey(const std::string& line);
  void send(const std::string& text);
  void answer();
  void set_effort(const std::string& name);

  void effort(const std::string& argument);
  void think(const std::string& argument);
  void file(const std::string& argument);
  void system(const std::string& argument);
  void tool(const std::string& argument);
  void history(const std::string& argument);
  void undo(const std::string& argument);
  void retry(const std::string& argument);
  void clear(const std::string& argument);
  void save(const std::string& argument);
  void load(const std::string& argument);
  void stats(const std::string& argument);
  void help(const std::string& argument);
  void exit(const std::string& argument);

  const ChatOptions& options_;
  const ChatDefaults& defaults_;
  Session& session_;
  ChatSession chat_;
  ChatView view_;
  std::string effort_name_ = "high";
  std::string attachments_;
  std::vector<std::string> examples_;
  bool is_interactive_ = false;
  bool is_over_ = false;
};

std::string trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(kSpace) - begin + 1));
}

// As much of a text as fits a line of an overview.
std::string excerpt(std::string_view text) {
  constexpr size_t kWidth = 72;
  std::string line = trimmed(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  if (line.size() <= kWidth) return line;
  size_t end = kWidth;
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xC0) == 0x80) --end;
  return line.substr(0, end) + " ...";
}

const std::vector<Chat::Command>& Chat::commands() {
  static const std::vector<Command> all = {
      {"/effort", "none|low|high|max", "how long the model thinks before it answers",
       &Chat::effort},
      {"/think", "on|off", "with or without thinking", &Chat::think},
      {"/file", "PATH", "attach a text file to the next message", &Chat::file},
      {"/system", "[TEXT]", "set the system message; without text, show it; -: none",
       &Chat::system},
      {"/tool", "RESULT", "answer the first open tool call", &Chat::tool},
      {"/history", "", "the conversation so far", &Chat::history},
      {"/undo", "", "take back the last message and its answer", &Chat::undo},
      {"/retry", "", "answer the last message again, with other random numbers", &Chat::retry},
      {"/clear", "", "begin anew; the system message stays", &Chat::clear},
      {"/save", "PATH", "write the conversation (JSON)", &Chat::save},
      {"/load", "PATH", "go on with a saved conversation", &Chat::load},
      {"/stats", "", "tokens, speed, settings", &Chat::stats},
      {"/help", "", "this list", &Chat::help},
      {"/exit", "", "leave (so do Ctrl-D and Ctrl-C twice)", &Chat::exit},
  };
  return all;
}

std::vector<std::string> Chat::command_names() {
  std::vector<std::string> names;
  for (const Command& command : commands()) names.emplace_back(command.name);
  return names;
}

Status Chat::prepare() {
  CACHALOT_ASSIGN_OR_RETURN(chat_.style.family,
                            text::prompt_family(*session_.tokenizer, options_.family));
  const std::string effort = options_.effort.empty() ? defaults_.effort : options_.effort;
  CACHALOT_ASSIGN_OR_RETURN(const text::ClientEffort resolved,
                            text::resolve_client_effort(effort, chat_.style.family));
  effort_name_ = effort;
  chat_.style.thinking = resolved.thinking;
  chat_.style.effort = resolved.effort;
  if (!options_.load.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(chat_.conversation, load_conversation(options_.load));
  }
  if (!options_.tools.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(chat_.conversation.tools, load_tools(options_.tools));
  }
  if (!options_.system.empty()) chat_.conversation.system = options_.system;
  return {};
}

Status Chat::run() {
  CACHALOT_RETURN_IF_ERROR(prepare());
  // Ctrl-C that go unanswered, in a chunk of a long prompt, before the program ends
  constexpr int kPatience = 3;
  watch_interrupts(kPatience);
  const std::string state = env_state_dir();
  LineEditor editor(state.empty() ? "" : state + "/chat_history", command_names());
  is_interactive_ = editor.is_interactive();
  if (is_interactive_) {
    const formats::ModelConfig& config = session_.engine->config();
    view_.heading(fmt::format("{}: {} layers, {}, {} threads, {} format", options_.run.model,
                              config.num_hidden_layers, session_.precision,
                              session_.engine->num_threads(),
                              text::prompt_family_name(chat_.style.family)));
    view_.note(
        "/help lists the commands. A backslash at the end of a line, or \"\"\" around several, "
        "makes a longer message.\n");
  }
  if (defaults_.is_plain_text)
    view_.note("This model was trained on plain text: it continues a text, it does not answer.");
  if (is_interactive_) CACHALOT_RETURN_IF_ERROR(offer_examples());
  while (!is_over_) {
    const std::optional<std::string> message = read_message(editor);
    if (!message) break;
    const std::string line = trimmed(*message);
    if (const std::optional<std::string> example = picked_example(line)) {
      view_.text(*example);
      send(*example);
    } else if (line.starts_with('/')) {
      obey(line);
    } else if (!line.empty() || !attachments_.empty()) {
      send(*message);
    }
  }
  return {};
}

// The directory of a model that knows only a few tasks may say which: examples.json, an array of
// messages.
Status Chat::offer_examples() {
  const std::string path = options_.run.model + "/examples.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return {};
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(text, path));
  const bool is_list =
      value.is_array() && std::all_of(value.get_array().begin(), value.get_array().end(),
                                      [](const auto& v) { return v.is_string(); });
  if (!is_list) return invalid_argument(path + ": expected an array of strings, found another");
  for (const json::value& example : value.get_array()) {
    examples_.emplace_back(example.get_string());
    view_.text(fmt::format("  {}  {}", examples_.size(), excerpt(examples_.back())));
  }
  if (!examples_.empty()) {
    view_.note(
        "A number asks one of these, at any time; or type a message of your own. This model knows "
        "only\nsmall tasks like these; /clear begins anew.\n");
  }
  return {};
}

// By its number.
std::optional<std::string> Chat::picked_example(const std::string& line) const {
  for (size_t i = 0; i < examples_.size(); ++i) {
    if (line == std::to_string(i + 1)) return examples_[i];
  }
  return std::nullopt;
}

// One message: a line, lines joined by trailing backslashes, or what stands between two """.
std::optional<std::string> Chat::read_message(LineEditor& editor) {
  constexpr std::string_view kQuotes = "\"\"\"";
  std::string message;
  bool is_quoted = false;
  bool is_continued = false;
  bool was_interrupted = false;
  while (true) {
    clear_interrupts();
    const InputLine input =
        editor.read(is_quoted || is_continued ? view_.continuation() : view_.prompt());
    if (input.kind == InputLine::Kind::end) {
      if (is_interactive_) std::fputc('\n', stdout);
      return message.empty() ? std::nullopt : std::optional(message);
    }
    if (input.kind == InputLine::Kind::interrupted) {
      if (was_interrupted || !is_interactive_) {
        std::fputc('\n', stdout);
        return std::nullopt;
      }
      was_interrupted = true;
      is_quoted = is_continued = false;
      message.clear();
      std::fputc('\n', stdout);
      view_.note("Ctrl-C again, Ctrl-D or /exit leaves.");
      continue;
    }
    was_interrupted = false;
    std::string line(without_byte_order_mark(input.text));
    if (!is_quoted && !is_continued && line.starts_with(kQuotes)) {
      is_quoted = true;
      line.erase(0, kQuotes.size());
      if (line.empty()) continue;
    }
    if (is_quoted) {
      const bool ends = line.ends_with(kQuotes);
      if (ends) line.resize(line.size() - kQuotes.size());
      if (!message.empty() && !(ends && line.empty())) message += '\n';
      message += line;
      if (ends) return message;
      continue;
    }
    is_continued = line.ends_with('\\');
    if (is_continued) line.back() = '\n';
    message += line;
    if (!is_continued) return message;
  }
}

void Chat::obey(const std::string& line) {
  const size_t space = line.find_first_of(" \t\n");
  const std::string name = line.substr(0, space);
  const std::string argument =
      space == std::string::npos ? "" : trimmed(std::string_view(line).substr(space));
  const Command* found = nullptr;
  for (const Command& command : commands()) {
    if (!std::string_view(command.name).starts_with(name == "/quit" ? "/exit" : name)) continue;
    if (name == command.name || found == nullptr) found = &command;
  }
  if (found == nullptr || name.size() < 2) {
    view_.error(fmt::format("no command {}; /help lists them", name));
    return;
  }
  (this->*found->act)(argument);
}

void Chat::send(const std::string& text) {
  chat_.conversation.messages.push_back(make_message(text::Role::user, attachments_ + text));
  const std::string attached = std::exchange(attachments_, {});
  const size_t before = chat_.conversation.messages.size();
  answer();
  if (chat_.conversation.messages.size() != before) return;
  // Not answered: nothing was said, and the attachments wait for the next message.
  chat_.conversation.messages.pop_back();
  attachments_ = attached;
}

void Chat::answer() {
  clear_interrupts();
  PrefillProgress progress("reading");
  view_.begin_answer();
  ChatSession::Callbacks callbacks;
  callbacks.on_prefill = [&](int64_t done, int64_t total) { progress.update(done, total); };
  callbacks.on_event = [&](const text::CompletionEvent& event) {
    progress.clear();
    view_.show(event);
  };
  callbacks.keep_going = [] { return interrupts() == 0; };
  const Status status = chat_.answer(callbacks);
  progress.clear();
  if (!status.ok()) {
    view_.end_answer("");
    view_.error(status.message());
    return;
  }
  const AnswerStats& stats = chat_.stats();
  std::string note;
  if (stats.finish == Finish::cancelled) {
    note = stats.answer_tokens > 0 ? "[stopped]"
                                   : "[stopped before the answer began; the message is taken back]";
  } else if (stats.finish == Finish::length) {
    note = fmt::format("[cut off after {} tokens]", stats.answer_tokens);
  }
  view_.end_answer(note);
}

void Chat::set_effort(const std::string& name) {
  const Result<text::ClientEffort> resolved = text::resolve_client_effort(name, chat_.style.family);
  if (!resolved) return view_.error(resolved.error().message());
  effort_name_ = name;
  chat_.style.thinking = resolved->thinking;
  chat_.style.effort = resolved->effort;
  view_.note(resolved->thinking ? fmt::format("Effort {}.", name) : "Without thinking.");
}

void Chat::effort(const std::string& argument) {
  if (argument.empty())
    return view_.note(fmt::format("Effort {}.", chat_.style.thinking ? effort_name_ : "none"));
  set_effort(argument);
}

void Chat::think(const std::string& argument) {
  if (argument == "off") return set_effort("none");
  if (argument == "on") return set_effort(effort_name_ == "none" ? "high" : effort_name_);
  view_.error(fmt::format("/think: expected on or off, found \"{}\"", argument));
}

void Chat::file(const std::string& argument) {
  if (argument.empty()) return view_.error("/file: expected a path, found none");
  const Result<std::string> text = attachment(argument);
  if (!text) return view_.error(text.error().message());
  attachments_ += *text;
  view_.note(fmt::format("{} goes with the next message ({} tokens).", argument,
                         grouped(static_cast<int64_t>(session_.tokenizer->encode(*text).size()))));
}

void Chat::system(const std::string& argument) {
  std::string& current = chat_.conversation.system;
  if (argument.empty()) return view_.note(current.empty() ? "No system message." : current);
  current = argument == "-" ? "" : argument;
  view_.note(current.empty() ? "System message removed." : "System message set.");
}

// Every call of the last assistant turn needs its result before the model goes on.
void Chat::tool(const std::string& argument) {
  std::vector<text::Message>& messages = chat_.conversation.messages;
  size_t turn = messages.size();
  while (turn > 0 && messages[turn - 1].role == text::Role::tool) --turn;
  const size_t answered = messages.size() - turn;
  if (turn == 0 || messages[turn - 1].tool_calls.size() <= answered)
    return view_.error("no tool call is open");
  const std::vector<text::ToolCall>& calls = messages[turn - 1].tool_calls;
  const std::string id = calls[answered].id;
  const size_t open = calls.size() - answered - 1;
  const std::string next = open > 0 ? calls[answered + 1].name : "";
  messages.push_back(make_message(text::Role::tool, argument));
  messages.back().tool_call_id = id;
  if (open > 0) return view_.note(fmt::format("{} more to answer: {}", open, next));
  const size_t before = messages.size();
  answer();
  if (messages.size() == before) messages.pop_back();
}

void Chat::history(const std::string&) {
  if (chat_.conversation.messages.empty()) return view_.note("Nothing was said yet.");
  if (!chat_.conversation.system.empty())
    view_.text(fmt::format("  system     {}", excerpt(chat_.conversation.system)));
  for (const text::Message& message : chat_.conversation.messages) {
    std::string line = excerpt(message.content);
    if (message.has_parts) line = fmt::format("({} parts)", message.parts.size());
    for (const text::ToolCall& call : message.tool_calls)
      line += fmt::format(" [calls {}]", call.name);
    if (!message.reasoning_content.empty())
      line += fmt::format(" (thought {} bytes)",
                          grouped(static_cast<int64_t>(message.reasoning_content.size())));
    view_.text(fmt::format("  {:<10} {}", text::role_name(message.role), line));
  }
}

void Chat::undo(const std::string&) {
  view_.note(chat_.conversation.undo() ? "The last message and its answer are gone."
                                       : "There is nothing to take back.");
}

void Chat::retry(const std::string&) {
  std::vector<text::Message>& messages = chat_.conversation.messages;
  if (messages.empty() || messages.back().role != text::Role::assistant)
    return view_.note("There is no answer to try again.");
  const text::Message old = std::move(messages.back());
  messages.pop_back();
  ++chat_.sampling().seed;
  const size_t before = messages.size();
  answer();
  if (messages.size() == before) messages.push_back(old);
}

void Chat::clear(const std::string&) {
  chat_.conversation.messages.clear();
  attachments_.clear();
  chat_.forget();
  view_.note("Begun anew.");
}

void Chat::save(const std::string& argument) {
  if (argument.empty()) return view_.error("/save: expected a path, found none");
  const Status status = save_conversation(chat_.conversation, chat_.style.family, argument);
  if (!status.ok()) return view_.error(status.message());
  view_.note(fmt::format("{} messages saved to {}.", chat_.conversation.messages.size(), argument));
}

void Chat::load(const std::string& argument) {
  if (argument.empty()) return view_.error("/load: expected a path, found none");
  Result<Conversation> loaded = load_conversation(argument);
  if (!loaded) return view_.error(loaded.error().message());
  chat_.conversation = *std::move(loaded);
  view_.note(fmt::format("{} messages loaded.", chat_.conversation.messages.size()));
}

void Chat::stats(const std::string&) {
  const AnswerStats& stats = chat_.stats();
  const auto speed = [](int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
  };
  engine::Engine& engine = *session_.engine;
  view_.text(fmt::format("  context    {} of {} tokens", grouped(chat_.context_tokens()),
                         grouped(engine.max_context_tokens())));
  view_.text(fmt::format("  prompt     {} tokens, {} of them cached; {:.1f} tokens/s",
                         grouped(stats.prompt_tokens), grouped(stats.cached_tokens),
                         speed(stats.prompt_tokens - stats.cached_tokens, stats.prefill_seconds)));
  view_.text(fmt::format("  answer     {} tokens; {:.1f} tokens/s", grouped(stats.answer_tokens),
                         speed(stats.answer_tokens, stats.decode_seconds)));
  if (stats.drafted > 0)
    view_.text(fmt::format("  drafts     {} of {} accepted", stats.accepted, stats.drafted));
  const engine::SamplingParams& sampling = chat_.sampling();
  view_.text(fmt::format("  sampling   temperature {}, top-p {}, top-k {}, min-p {}, seed {}",
                         sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p,
                         sampling.seed));
  view_.text(fmt::format("  effort     {}", chat_.style.thinking ? effort_name_ : "none"));
  view_.text(fmt::format("  model      {}, {}, {} threads", options_.run.model, session_.precision,
                         engine.num_threads()));
}

void Chat::help(const std::string&) {
  for (const Command& command : commands())
    view_.text(fmt::format("  {:<8} {:<18} {}", command.name, command.argument, command.help));
  view_.note("  Ctrl-C stops an answer. Commands may be shortened: /h, /st.");
}

void Chat::exit(const std::string&) { is_over_ = true; }

}  // namespace

Status chat(const ChatOptions& options) {
  // A seed that was asked for is kept; otherwise each conversation has its own, which /stats shows.
  constexpr uint64_t kShortSeeds = 1'000'000;
  CACHALOT_ASSIGN_OR_RETURN(engine::SamplingParams sampling,
                            sampling_params(options.run, std::random_device()() % kShortSeeds));
  CACHALOT_ASSIGN_OR_RETURN(const ChatDefaults defaults, chat_defaults(options.run.model));
  CACHALOT_ASSIGN_OR_RETURN(Session session, open_session(options.run, true));
  CACHALOT_RETURN_IF_ERROR(engine::validate(sampling, session.engine->config().vocab_size));
  return Chat(options, defaults, session, std::move(sampling)).run();
}

}  // namespace cachalot::apps
