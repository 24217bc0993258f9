#include "apps/evaluate.h"

#include <fmt/format.h>

#include <cstdio>
#include <optional>

#include "apps/chat_session.h"
#include "base/python_json.h"
#include "data/tasks/task.h"

namespace cachalot::apps {
namespace {

struct Score {
  data::TaskFamily family;
  int64_t difficulty = 0;
  int64_t correct = 0;
  int64_t count = 0;
  int64_t tokens = 0;  // generated
};

class Evaluation {
 public:
  explicit Evaluation(const EvaluateOptions& options) : options_(options) {}

  Status run() {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<data::TaskFamily> families, chosen_families());
    if (options_.min_difficulty > options_.max_difficulty) {
      return invalid_argument(fmt::format("evaluate: expected --min-difficulty up to {}, found {}",
                                          options_.max_difficulty, options_.min_difficulty));
    }
    CACHALOT_ASSIGN_OR_RETURN(sampling_, sampling_params(options_.run, 0));
    CACHALOT_ASSIGN_OR_RETURN(session_, open_session(options_.run, true));
    chat_.emplace(session_, sampling_, ChatLimits{options_.max_tokens, options_.run.drafts});
    text::ChatStyle& style = chat_->style;
    CACHALOT_ASSIGN_OR_RETURN(style.family,
                              text::prompt_family(*session_.tokenizer, options_.family));
    CACHALOT_ASSIGN_OR_RETURN(const text::ClientEffort effort,
                              text::resolve_client_effort(options_.effort, style.family));
    style.thinking = effort.thinking;
    style.effort = effort.effort;
    for (const data::TaskFamily family : families) {
      for (int64_t d = options_.min_difficulty; d <= options_.max_difficulty; ++d) {
        Score score{.family = family, .difficulty = d};
        for (int64_t i = 0; i < options_.count; ++i)
          CACHALOT_RETURN_IF_ERROR(attempt(static_cast<uint64_t>(i), score));
        scores_.push_back(score);
        if (!options_.json) print_row(score);
      }
    }
    print_total();
    return {};
  }

 private:
  Result<std::vector<data::TaskFamily>> chosen_families() const {
    std::vector<data::TaskFamily> families;
    for (const std::string& name : options_.families) {
      const std::optional<data::TaskFamily> family = data::parse_task_family(name);
      if (!family) {
        std::vector<std::string_view> known;
        for (const data::TaskFamily f : data::task_families())
          known.push_back(data::task_family_name(f));
        return invalid_argument(fmt::format("--families: expected some of {}, found \"{}\"",
                                            fmt::join(known, ", "), name));
      }
      families.push_back(*family);
    }
    if (families.empty())
      families.assign(data::task_families().begin(), data::task_families().end());
    return families;
  }

  // One episode: turns until one calls no tool.
  Status attempt(uint64_t index, Score& score) {
    const data::Task task = data::make_task(score.family, static_cast<int>(score.difficulty),
                                            options_.task_seed, index);
    const std::unique_ptr<data::ToolEnvironment> world =
        task.environment ? task.environment() : nullptr;
    chat_->forget();
    chat_->sampling().seed = sampling_.seed + index;
    Conversation& conversation = chat_->conversation;
    conversation = {};
    conversation.tools = task.tools;
    conversation.messages.push_back(make_message(text::Role::user, task.prompt));
    data::Reply reply;
    for (int64_t turn = 0; turn < options_.max_turns; ++turn) {
      CACHALOT_RETURN_IF_ERROR(chat_->answer({}));
      score.tokens += chat_->stats().answer_tokens;
      const text::Message answer = conversation.messages.back();
      reply.content = answer.content;
      if (answer.tool_calls.empty() || world == nullptr) break;
      for (const text::ToolCall& call : answer.tool_calls) {
        reply.tool_calls.push_back(call);
        text::Message result = make_message(text::Role::tool, world->call(call));
        result.tool_call_id = call.id;
        conversation.messages.push_back(std::move(result));
      }
    }
    ++score.count;
    score.correct += task.check(reply).correct ? 1 : 0;
    return {};
  }

  static void print_row(const Score& score) {
    fmt::print("{:<14} difficulty {:<3} {:>5} of {:<5} {:>6.1f} %  {:>7.1f} tokens a task\n",
               data::task_family_name(score.family), score.difficulty, score.correct, score.count,
               100.0 * static_cast<double>(score.correct) / static_cast<double>(score.count),
               static_cast<double>(score.tokens) / static_cast<double>(score.count));
    std::fflush(stdout);
  }

  void print_total() const {
    int64_t correct = 0, count = 0;
    json::array rows;
    for (const Score& score : scores_) {
      correct += score.correct;
      count += score.count;
      rows.push_back(json::object{{"family", data::task_family_name(score.family)},
                                  {"difficulty", score.difficulty},
                                  {"correct", score.correct},
                                  {"count", score.count},
                                  {"tokens", score.tokens}});
    }
    if (options_.json) {
      std::puts(python_json(json::object{{"tasks", std::move(rows)},
                                         {"correct", correct},
                                         {"count", count},
                                         {"task_seed", options_.task_seed}})
                    .c_str());
    } else {
      fmt::print("{:<29} {:>5} of {:<5} {:>6.1f} %\n", "all", correct, count,
                 100.0 * static_cast<double>(correct) / static_cast<double>(count));
    }
  }

  const EvaluateOptions& options_;
  Session session_;
  engine::SamplingParams sampling_;
  std::optional<ChatSession> chat_;
  std::vector<Score> scores_;
};

}  // namespace

Status evaluate(const EvaluateOptions& options) { return Evaluation(options).run(); }

}  // namespace cachalot::apps
