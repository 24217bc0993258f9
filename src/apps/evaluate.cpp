#include "apps/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>

#include "apps/run_folder.h"
#include "base/python_json.h"
#include "post/episode.h"
#include "post/rollouts.h"
#include "post/share_interval.h"

namespace cachalot::apps {
namespace {

constexpr int64_t kTasksAtOnce = 256;  // of a log

struct Score {
  std::string name, effort;
  int64_t difficulty = 0;
  int64_t correct = 0, truncated = 0, count = 0;
  int64_t tokens = 0, reasoning = 0;  // sampled

  post::Interval interval() const { return post::share_interval(correct, count); }
};

class Evaluation {
 public:
  explicit Evaluation(EvaluateOptions options) : options_(std::move(options)) {}

  Status run() {
    if (options_.min_difficulty > options_.max_difficulty) {
      return invalid_argument(fmt::format("evaluate: expected --min-difficulty up to {}, found {}",
                                          options_.max_difficulty, options_.min_difficulty));
    }
    CACHALOT_RETURN_IF_ERROR(open_sources());
    CACHALOT_ASSIGN_OR_RETURN(sampling_, sampling_params(options_.run, 0));
    options_.run.max_sequences = options_.parallel + 2;  // a prompt and its stem
    CACHALOT_ASSIGN_OR_RETURN(session_, open_session(options_.run, true));
    format_.tokenizer = session_.tokenizer.get();
    CACHALOT_ASSIGN_OR_RETURN(format_.family,
                              text::prompt_family(*session_.tokenizer, options_.family));
    format_.max_turns = options_.max_turns;
    CACHALOT_ASSIGN_OR_RETURN(const NewFolder folder, NewFolder::temporary());
    for (const post::TaskSource& source : sources_) {
      const post::TaskEntry& entry = source.entry();
      Score score{.name = entry.name, .effort = entry.effort, .difficulty = entry.difficulty};
      const int64_t count =
          source.num_tasks() == 0 ? options_.count : std::min(options_.count, source.num_tasks());
      for (int64_t first = 0; first < count; first += kTasksAtOnce) {
        const std::string log = fmt::format("{}/{}-{}", folder.path(), scores_.size(), first);
        CACHALOT_RETURN_IF_ERROR(
            answer(source, first, std::min(count - first, kTasksAtOnce), log, score));
      }
      scores_.push_back(score);
      if (!options_.json) print_row(score);
    }
    print_total();
    return {};
  }

 private:
  Status open_sources() {
    post::TaskEntry entry{.name = {}, .effort = options_.effort};
    entry.max_new_tokens = options_.max_tokens;
    for (const std::string& file : options_.files) {
      entry.name = entry.path = file;
      CACHALOT_RETURN_IF_ERROR(open_source(entry));
    }
    entry.path.clear();
    std::vector<std::string> families = options_.families;
    if (families.empty() && options_.files.empty()) {
      for (const data::TaskFamily family : data::task_families())
        families.emplace_back(data::task_family_name(family));
    }
    for (const std::string& family : families) CACHALOT_RETURN_IF_ERROR(open_family(family, entry));
    return {};
  }

  // NAME, NAME:DIFFICULTY or NAME:DIFFICULTY:EFFORT.
  Status open_family(const std::string& text, post::TaskEntry entry) {
    const size_t colon = text.find(':');
    entry.name = entry.family = text.substr(0, colon);
    int64_t first = options_.min_difficulty, last = options_.max_difficulty;
    if (colon != std::string::npos) {
      const std::string rest = text.substr(colon + 1);
      const char* const end = rest.data() + rest.size();
      const auto [stop, error] = std::from_chars(rest.data(), end, first);
      last = first;
      if (error != std::errc() || (stop != end && *stop != ':') || first < 0 ||
          first > data::kMaxDifficulty) {
        return invalid_argument(
            fmt::format("--families: expected NAME:DIFFICULTY with one from 0 to {}, found \"{}\"",
                        data::kMaxDifficulty, text));
      }
      if (stop != end) entry.effort = std::string(stop + 1, end);
      CACHALOT_RETURN_IF_ERROR(
          text::parse_reasoning_effort(entry.effort == "none" ? std::string() : entry.effort)
              .error());
    }
    for (entry.difficulty = first; entry.difficulty <= last; ++entry.difficulty)
      CACHALOT_RETURN_IF_ERROR(open_source(entry));
    return {};
  }

  Status open_source(const post::TaskEntry& entry) {
    CACHALOT_ASSIGN_OR_RETURN(post::TaskSource source,
                              post::TaskSource::open(entry, options_.task_seed));
    sources_.push_back(std::move(source));
    return {};
  }

  // Tasks first, first + 1, ... of a source.
  Status answer(const post::TaskSource& source, int64_t first, int64_t count,
                const std::string& log_path, Score& score) {
    post::RolloutPlan plan;
    plan.step = first;
    plan.seed = sampling_.seed;
    plan.group_size = 1;
    plan.sampling = sampling_;
    plan.end_tokens = session_.stop_tokens;
    plan.num_drafts = options_.run.drafts;
    std::vector<post::Episode> episodes;
    for (int64_t i = 0; i < count; ++i) {
      CACHALOT_ASSIGN_OR_RETURN(
          post::Episode episode,
          post::Episode::create(format_, source.task(first + i), source.entry().effort));
      plan.groups.push_back({episode.prompt(), source.entry().max_new_tokens});
      episodes.push_back(std::move(episode));
    }
    engine::Engine& engine = *session_.engine;
    CACHALOT_ASSIGN_OR_RETURN(
        post::RolloutLog log,
        post::RolloutLog::open(log_path, post::log_head(plan, engine.config(), false)));
    post::RolloutOptions options;
    options.max_sequences = options_.run.max_sequences;
    options.for_training = false;
    options.on_turn = [&](int64_t number, const post::RolloutAnswer& so_far) {
      return episodes[number].next_turn(so_far);
    };
    post::Rollouts rollouts(engine, plan, log, std::move(options));
    CACHALOT_RETURN_IF_ERROR(rollouts.run().error());
    for (int64_t i = 0; i < count; ++i)
      CACHALOT_RETURN_IF_ERROR(judge(episodes[i], log.answers()[i], score));
    return {};
  }

  static Status judge(const post::Episode& episode, const post::RolloutAnswer& answer,
                      Score& score) {
    ++score.count;
    score.tokens += answer.num_sampled();
    score.reasoning += episode.num_reasoning_tokens(answer);
    if (answer.end != post::AnswerEnd::stop) {
      ++score.truncated;
      return {};
    }
    if (!episode.task().check)
      return invalid_argument(
          fmt::format("task {}: expected a checker, found a rubric alone", episode.task().id));
    CACHALOT_ASSIGN_OR_RETURN(const data::Reply reply, episode.reply(answer));
    CACHALOT_ASSIGN_OR_RETURN(const post::Reward reward, episode.task().check(reply));
    score.correct += reward.correct ? 1 : 0;
    return {};
  }

  static void print_row(const Score& score) {
    const auto n = static_cast<double>(score.count);
    fmt::print(
        "{:<14} difficulty {:<3} {:>5} of {:<5} {:>6.1f} % ({:.1f} to {:.1f})  {:>7.1f} tokens a "
        "task\n",
        score.name, score.difficulty, score.correct, score.count,
        100.0 * static_cast<double>(score.correct) / n, 100 * score.interval().low,
        100 * score.interval().high, static_cast<double>(score.tokens) / n);
    std::fflush(stdout);
  }

  void print_total() const {
    int64_t correct = 0, count = 0;
    json::array rows;
    for (const Score& score : scores_) {
      correct += score.correct;
      count += score.count;
      rows.push_back(json::object{{"family", score.name},
                                  {"difficulty", score.difficulty},
                                  {"effort", score.effort},
                                  {"correct", score.correct},
                                  {"count", score.count},
                                  {"low", score.interval().low},
                                  {"high", score.interval().high},
                                  {"truncated", score.truncated},
                                  {"tokens", score.tokens},
                                  {"reasoning", score.reasoning}});
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

  EvaluateOptions options_;
  std::vector<post::TaskSource> sources_;
  Session session_;
  engine::SamplingParams sampling_;
  post::EpisodeFormat format_{};
  std::vector<Score> scores_;
};

}  // namespace

Status evaluate(const EvaluateOptions& options) { return Evaluation(options).run(); }

}  // namespace cachalot::apps
