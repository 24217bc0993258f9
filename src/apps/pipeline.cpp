#include "apps/pipeline.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <span>
#include <thread>

#include "apps/pipeline_places.h"
#include "apps/report.h"
#include "base/file.h"
#include "base/python_json.h"
#include "post/config_table.h"
#include "train/checkpoint.h"
#include "train/run_lock.h"

extern char** environ;

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
constexpr size_t kShownLog = 64 << 10;

bool is_stage_name(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  });
}

std::string joined_words(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + json_quoted(word);
  return out;
}

// The exit code; a signal's number plus 128.
Result<int> run_command(const std::string& program, const std::vector<std::string>& arguments,
                        const std::string& log) {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t child = 0;
  const int error = posix_spawnp(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return io_error(fmt::format("{}: expected to start it, with its output to {}, found: {}",
                                program, log, std::strerror(error)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR)
      return io_error(fmt::format("{}: waiting: {}", program, std::strerror(errno)));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

class Pipeline {
 public:
  Pipeline(const PipelineConfig& config, const PipelineRequest& request)
      : config_(config), request_(request) {}

  Result<bool> run() {
    CACHALOT_RETURN_IF_ERROR(create_directories(config_.run_dir));
    CACHALOT_ASSIGN_OR_RETURN(const train::RunLock lock, train::RunLock::acquire(config_.run_dir));
    CACHALOT_RETURN_IF_ERROR(
        write_file_atomically(config_.run_dir + "/pipeline.toml", config_.resolved));
    const std::vector<PipelineStage>& stages = config_.stages;
    for (size_t first = 0; first < stages.size();) {
      size_t last = first + 1;
      while (!stages[first].lane.empty() && last < stages.size() && !stages[last].lane.empty())
        ++last;
      CACHALOT_ASSIGN_OR_RETURN(const bool is_through,
                                run_lanes(std::span(stages).subspan(first, last - first)));
      if (!is_through) return false;
      first = last;
    }
    CACHALOT_RETURN_IF_ERROR(write_page());
    const std::vector<StageScores> scores = all_scores();
    for (const PipelineClaim& claim : config_.claims) {
      const ClaimVerdict verdict = judge_claim(claim, scores);
      request_.show(
          fmt::format("{}: {} ({})", claim.text, verdict_word(verdict.kind), verdict.why));
    }
    return true;
  }

 private:
  // Stages of one lane in order, lanes beside each other. False: stopped. The first error in the
  // order of the lanes, once all have ended.
  Result<bool> run_lanes(std::span<const PipelineStage> stages) {
    std::vector<std::vector<const PipelineStage*>> lanes;
    for (const PipelineStage& stage : stages) {
      const auto lane =
          std::ranges::find_if(lanes, [&](const auto& one) { return one[0]->lane == stage.lane; });
      (lane == lanes.end() ? lanes.emplace_back() : *lane).push_back(&stage);
    }
    std::vector<Result<bool>> results(lanes.size(), Result<bool>(true));
    std::atomic<size_t> next = 0;
    const auto work = [&] {
      for (size_t lane = next++; lane < lanes.size(); lane = next++)
        results[lane] = run_in_order(lanes[lane]);
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < std::min(config_.parallel, std::ssize(lanes)); ++i)
      others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
    bool is_through = true;
    for (const Result<bool>& result : results) {
      if (!result) return result.error();
      is_through = is_through && *result;
    }
    return is_through;
  }

  Result<bool> run_in_order(std::span<const PipelineStage* const> stages) {
    for (const PipelineStage* stage : stages) {
      CACHALOT_ASSIGN_OR_RETURN(const bool is_done, is_done_already(*stage));
      if (is_done) {
        show(fmt::format("{}: done before", stage->name));
        continue;
      }
      const Result<bool> is_through = run_stage(*stage);
      CACHALOT_RETURN_IF_ERROR(write_page());
      if (!is_through || !*is_through) return is_through;
    }
    return true;
  }

  void show(const std::string& line) const {
    const std::lock_guard lock(mutex_);
    request_.show(line);
  }

  std::string path(const std::string& name) const { return config_.run_dir + "/" + name; }
  std::string done_path(const PipelineStage& stage) const { return path(stage.name + ".done"); }

  Result<bool> is_done_already(const PipelineStage& stage) const {
    if (!fs::exists(done_path(stage))) return false;
    CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(done_path(stage)));
    const std::string command = text.substr(std::min(text.find('\n') + 1, text.size()));
    if (command == joined_words(stage.command) + "\n") return true;
    return invalid_argument(fmt::format(
        "{}: expected stage {} done by {}, found it done by {}; without this file it is done again",
        done_path(stage), stage.name, joined_words(stage.command),
        command.substr(0, command.find('\n'))));
  }

  // False: stopped.
  Result<bool> run_stage(const PipelineStage& stage) const {
    const bool goes_on =
        !stage.resume.empty() && !train::list_checkpoints(path(stage.name)).empty();
    const std::string log = path(stage.name + ".log");
    std::error_code error;
    if (!goes_on) fs::remove_all(path(stage.name), error);
    if (error) return io_error(fmt::format("{}: {}", path(stage.name), error.message()));
    if (!goes_on) {
      fs::remove(log, error);
      fs::remove(rounds_path(stage), error);
    }
    const Clock::time_point start = Clock::now();
    CACHALOT_ASSIGN_OR_RETURN(const bool is_through,
                              stage.score.empty()
                                  ? run_words(stage, goes_on ? stage.resume : stage.command, 0, log)
                                  : run_rounds(stage));
    if (!is_through) return false;
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    show(fmt::format("{}: done in {:.0f} s", stage.name, seconds));
    CACHALOT_RETURN_IF_ERROR(write_file_atomically(
        done_path(stage), fmt::format("{:.1f}\n{}\n", seconds, joined_words(stage.command))));
    return !request_.wants_stop();
  }

  // One command of a stage. False: stopped.
  Result<bool> run_words(const PipelineStage& stage, const std::vector<std::string>& words,
                         int64_t steps, const std::string& log) const {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> command,
                              with_places(config_.run_dir, words, steps));
    show(fmt::format("{}: {}", stage.name, fmt::join(command, " ")));
    CACHALOT_ASSIGN_OR_RETURN(const int code, run_command(request_.program, command, log));
    if (code == 0) return true;
    if (!request_.wants_stop()) {
      return io_error(fmt::format("stage {}: expected exit code 0, found {}; {} says more",
                                  stage.name, code, log));
    }
    show(fmt::format("{}: stopped", stage.name));
    return false;
  }

  std::string rounds_path(const PipelineStage& stage) const { return path(stage.name + ".rounds"); }

  // Until the score rises no more. False: stopped.
  Result<bool> run_rounds(const PipelineStage& stage) const {
    std::string text;
    std::vector<PipelineRound> rounds;
    if (fs::exists(rounds_path(stage))) {
      CACHALOT_ASSIGN_OR_RETURN(rounds, read_rounds(rounds_path(stage)));
      for (const PipelineRound& round : rounds) text += round_line(round);
    }
    const std::string log = path(stage.name + ".log"), score_log = path(stage.name + ".score");
    while (static_cast<int64_t>(rounds.size()) < stage.rounds) {
      const auto num_rounds = static_cast<int64_t>(rounds.size());
      // Where nothing has been right yet, no round can have been the best.
      const size_t best = num_rounds > 0 ? best_round(rounds) : 0;
      if (num_rounds > 0 && rounds[best].correct > 0 &&
          num_rounds - 1 - static_cast<int64_t>(best) >= stage.patience)
        break;
      std::vector<int64_t> steps = train::list_checkpoints(path(stage.name));
      const int64_t until = (num_rounds + 1) * stage.round_steps;
      if (steps.empty() || steps.back() < until) {
        CACHALOT_ASSIGN_OR_RETURN(
            const bool is_through,
            run_words(stage, steps.empty() ? stage.command : stage.resume, until, log));
        if (!is_through) return false;
        steps = train::list_checkpoints(path(stage.name));
      }
      if (steps.empty() || (num_rounds > 0 && steps.back() == rounds.back().step)) break;
      std::error_code error;
      fs::remove(score_log, error);
      // Of this round's own checkpoint: it is not yet known to be the best.
      CACHALOT_ASSIGN_OR_RETURN(const bool is_scored,
                                run_words(stage, scored(stage, steps.back()), until, score_log));
      if (!is_scored) return false;
      CACHALOT_ASSIGN_OR_RETURN(const std::string printed, read_text_file(score_log));
      const std::optional<StageScores> scores = scores_of(stage.name, printed);
      if (!scores || total_count(*scores) == 0) {
        return invalid_argument(fmt::format(
            "stage {}: expected a score that ends in evaluate's JSON object, found none in {}",
            stage.name, score_log));
      }
      rounds.push_back({steps.back(), total_correct(*scores), total_count(*scores)});
      show(fmt::format("{}: step {}: {} of {} right", stage.name, rounds.back().step,
                       rounds.back().correct, rounds.back().count));
      text += round_line(rounds.back());
      CACHALOT_RETURN_IF_ERROR(write_file_atomically(rounds_path(stage), text));
      if (request_.wants_stop()) return false;
    }
    return true;
  }

  // The score's words, where {model:NAME} of the stage itself is this step's checkpoint.
  std::vector<std::string> scored(const PipelineStage& stage, int64_t step) const {
    std::vector<std::string> words = stage.score;
    const std::string own = fmt::format("{{model:{}}}", stage.name);
    for (std::string& word : words) {
      for (size_t at = word.find(own); at != std::string::npos; at = word.find(own, at))
        word.replace(at, own.size(), train::checkpoint_directory(path(stage.name), step));
    }
    return words;
  }

  std::vector<StageScores> all_scores() const {
    std::vector<StageScores> out;
    for (const PipelineStage& stage : config_.stages) {
      if (!fs::exists(done_path(stage))) continue;
      const Result<std::string> log = read_text_file(path(stage.name + ".log"));
      std::optional<StageScores> scores = log ? scores_of(stage.name, *log) : std::nullopt;
      if (scores) out.push_back(*std::move(scores));
    }
    return out;
  }

  // A stage's own report, or the end of what it has printed.
  std::string section(const PipelineStage& stage) const {
    const bool is_done = fs::exists(done_path(stage));
    std::string body;
    if (const Result<ReportRun> run = read_report_run(path(stage.name)); run) {
      body = fmt::format("<iframe srcdoc=\"{}\"></iframe>\n", escape_html(run_report(*run)));
    } else if (const Result<std::string> log = read_text_file(path(stage.name + ".log")); log) {
      const size_t first = log->size() - std::min(log->size(), kShownLog);
      body = fmt::format("<pre>{}</pre>\n", escape_html(log->substr(first)));
    }
    return fmt::format("<details{}><summary>{}: {}</summary>\n<pre>{}</pre>\n{}</details>\n",
                       body.empty() ? "" : " open", escape_html(stage.name),
                       is_done         ? "done"
                       : !body.empty() ? "begun"
                                       : "not begun",
                       escape_html(joined_words(stage.command)), body);
  }

  Status write_page() const {
    const std::lock_guard lock(mutex_);
    std::string page =
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width\">\n<title>pipeline</title>\n"
        "<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;margin:1rem "
        "auto;max-width:70rem;padding:0 1rem}summary{font-size:1.25rem;font-weight:600}"
        "iframe{border:0;height:80vh;width:100%}pre{overflow-x:auto}td,th{padding:0 0.6rem;"
        "text-align:left}</style>\n</head>\n<body>\n";
    page += scores_section(config_.claims, all_scores());
    for (const PipelineStage& stage : config_.stages) page += section(stage);
    return write_file_atomically(path("report.html"), page + "</body>\n</html>\n");
  }

  const PipelineConfig& config_;
  const PipelineRequest& request_;
  mutable std::mutex mutex_;  // of what is shown, and of the page
};

// Whether stage `first` is done when `stage` begins: not where they are in lanes beside each other.
bool is_done_before(const PipelineConfig& config, size_t first, size_t stage) {
  if (first >= stage) return false;
  const auto between = std::span(config.stages).subspan(first, stage + 1 - first);
  return between.front().lane == between.back().lane ||
         std::ranges::find(between, "", &PipelineStage::lane) != between.end();
}

// Places that name no stage before; of a score, the stage itself may be named.
void check_places(const PipelineConfig& config, size_t stage, post::ConfigTable& table) {
  const PipelineStage& at = config.stages[stage];
  for (const auto* words : {&at.command, &at.resume, &at.score}) {
    for (const std::string& word : *words) {
      for (const std::string& name : places_of(word)) {
        const auto found = std::ranges::find(config.stages, name, &PipelineStage::name);
        const auto index = static_cast<size_t>(found - config.stages.begin());
        if (is_done_before(config, index, stage) || (words == &at.score && index == stage))
          continue;
        table.add_error(invalid_argument(fmt::format(
            "stages.{}: expected {{model:NAME}} or {{tokens:NAME}} with the name of a stage "
            "before, of its own lane where both are in lanes, found {}",
            stage, json_quoted(word))));
      }
    }
  }
}

// {NAME} of the table [values] in every word of the stages.
void put_values(const json::object& values, PipelineConfig& config, post::ConfigTable& table) {
  for (const auto& [name, value] : values) {
    const bool is_whole = value.is_int64();
    if ((!is_whole && !value.is_double() && !value.is_string()) || !is_stage_name(name) ||
        name == "run" || name == "steps") {
      table.add_error(invalid_argument(
          fmt::format("values.{}: expected a text or a number, named in lower-case letters, "
                      "digits, - and _, and not run or steps, found {}",
                      std::string_view(name), json_kind_name(value))));
      continue;
    }
    const std::string place = fmt::format("{{{}}}", std::string_view(name));
    const std::string text = is_whole            ? fmt::format("{}", value.get_int64())
                             : value.is_double() ? fmt::format("{}", value.get_double())
                                                 : std::string(value.get_string());
    for (PipelineStage& stage : config.stages) {
      for (auto* words : {&stage.command, &stage.resume, &stage.score}) {
        for (std::string& word : *words) {
          for (size_t at = word.find(place); at != std::string::npos;
               at = word.find(place, at + text.size()))
            word.replace(at, place.size(), text);
        }
      }
    }
  }
}

void read_claim(const PipelineConfig& config, post::ConfigTable& t, PipelineClaim& claim) {
  constexpr size_t kMostNames = 64;
  t.text("text", &claim.text);
  t.text("stage", &claim.stage);
  t.texts("than", &claim.than, kMostNames);
  t.texts("tasks", &claim.tasks, kMostNames);
  t.texts("than_tasks", &claim.than_tasks, kMostNames);
  t.choice("measure", &claim.measure, {"correct", "reasoning", "tokens"});
  t.real("by", &claim.by, -1e9, 1e9);
  std::vector<std::string> stages = claim.than;
  stages.push_back(claim.stage);
  for (const std::string& name : stages) {
    if (std::ranges::find(config.stages, name, &PipelineStage::name) == config.stages.end())
      t.key("stage").fail("stage", "names of stages", json_quoted(name));
  }
}

}  // namespace

Result<PipelineConfig> read_pipeline_config(std::span<const std::string> files,
                                            std::span<const std::string> assignments) {
  CACHALOT_ASSIGN_OR_RETURN(const train::ConfigTree tree,
                            train::read_config_tree(files, assignments));
  PipelineConfig config;
  config.resolved = train::to_toml(tree.root);
  post::ConfigTable table(tree.root, tree, "");
  table.text("run_dir", &config.run_dir);
  if (config.run_dir.empty())
    table.key("run_dir").fail("run_dir", "a directory to write to", "none");
  PipelineStage usual;
  const auto read_rounds_of = [](post::ConfigTable& t, PipelineStage& stage) {
    t.integer("round_steps", &stage.round_steps, 1, int64_t{1} << 40);
    t.integer("rounds", &stage.rounds, 1, 1 << 20);
    t.integer("patience", &stage.patience, 1, 1 << 20);
  };
  read_rounds_of(table, usual);
  table.integer("parallel", &config.parallel, 1, 1024);
  table.tables("stages", [&](post::ConfigTable& t) {
    PipelineStage& stage = config.stages.emplace_back(usual);
    constexpr size_t kMostWords = 4096;
    t.text("name", &stage.name);
    t.text("lane", &stage.lane);
    t.texts("command", &stage.command, kMostWords);
    t.texts("resume", &stage.resume, kMostWords);
    t.texts("score", &stage.score, kMostWords);
    read_rounds_of(t, stage);
    if (!stage.score.empty() && (stage.round_steps == 0 || stage.resume.empty()))
      t.key("score").fail("score", "round_steps and resume beside it", "none");
    if (!is_stage_name(stage.name))
      t.key("name").fail("name", "lower-case letters, digits, - and _", json_quoted(stage.name));
    if (stage.command.empty()) t.key("command").fail("command", "a verb with its options", "none");
    const auto before = std::span(config.stages).first(config.stages.size() - 1);
    if (std::ranges::find(before, stage.name, &PipelineStage::name) != before.end())
      t.key("name").fail("name", "a name of its own", json_quoted(stage.name));
  });
  if (const json::object* values =
          table.has("values") ? table.key("values").object("values") : nullptr)
    put_values(*values, config, table);
  for (size_t i = 0; i < config.stages.size(); ++i) check_places(config, i, table);
  if (table.has("claims")) {
    table.tables("claims", [&](post::ConfigTable& t) {
      read_claim(config, t, config.claims.emplace_back());
    });
  }
  CACHALOT_RETURN_IF_ERROR(table.finish());
  return config;
}

Result<bool> run_pipeline(const PipelineConfig& config, const PipelineRequest& request) {
  return Pipeline(config, request).run();
}

}  // namespace cachalot::apps
