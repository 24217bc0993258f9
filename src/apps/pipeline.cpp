#include "apps/pipeline.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

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
constexpr char kRun[] = "{run}";
constexpr char kModel[] = "{model:";

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
    for (const PipelineStage& stage : config_.stages) {
      CACHALOT_ASSIGN_OR_RETURN(const bool is_done, is_done_already(stage));
      if (is_done) {
        request_.show(fmt::format("{}: done before", stage.name));
        continue;
      }
      const Result<bool> is_through = run_stage(stage);
      CACHALOT_RETURN_IF_ERROR(write_page());
      if (!is_through) return is_through.error();
      if (!*is_through) return false;
    }
    CACHALOT_RETURN_IF_ERROR(write_page());
    return true;
  }

 private:
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

  Result<std::vector<std::string>> with_places(const std::vector<std::string>& words) const {
    std::vector<std::string> out;
    for (const std::string& word : words) {
      std::string made;
      for (size_t at = 0; at < word.size();) {
        const std::string_view rest = std::string_view(word).substr(at);
        if (rest.starts_with(kRun)) {
          made += config_.run_dir;
          at += sizeof(kRun) - 1;
        } else if (rest.starts_with(kModel)) {
          const size_t end = rest.find('}');
          const std::string name(rest.substr(sizeof(kModel) - 1, end - (sizeof(kModel) - 1)));
          const std::vector<int64_t> steps = train::list_checkpoints(path(name));
          if (steps.empty()) {
            return invalid_argument(
                fmt::format("{}: expected a checkpoint of stage {}, found none", path(name), name));
          }
          made += train::checkpoint_directory(path(name), steps.back());
          at += end + 1;
        } else {
          made += word[at++];
        }
      }
      out.push_back(made);
    }
    return out;
  }

  // False: stopped.
  Result<bool> run_stage(const PipelineStage& stage) const {
    const bool goes_on =
        !stage.resume.empty() && !train::list_checkpoints(path(stage.name)).empty();
    std::error_code error;
    if (!goes_on) fs::remove_all(path(stage.name), error);
    if (error) return io_error(fmt::format("{}: {}", path(stage.name), error.message()));
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> command,
                              with_places(goes_on ? stage.resume : stage.command));
    request_.show(
        fmt::format("{}: {}{}", stage.name, goes_on ? "goes on: " : "", fmt::join(command, " ")));
    const std::string log = path(stage.name + ".log");
    if (!goes_on) fs::remove(log, error);
    const Clock::time_point start = Clock::now();
    CACHALOT_ASSIGN_OR_RETURN(const int code, run_command(request_.program, command, log));
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (code != 0 && request_.wants_stop()) {
      request_.show(fmt::format("{}: stopped", stage.name));
      return false;
    }
    if (code != 0) {
      return io_error(fmt::format("stage {}: expected exit code 0, found {}; {} says more",
                                  stage.name, code, log));
    }
    request_.show(fmt::format("{}: done in {:.0f} s", stage.name, seconds));
    CACHALOT_RETURN_IF_ERROR(write_file_atomically(
        done_path(stage), fmt::format("{:.1f}\n{}\n", seconds, joined_words(stage.command))));
    return !request_.wants_stop();
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
    std::string page =
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width\">\n<title>pipeline</title>\n"
        "<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;margin:1rem "
        "auto;max-width:70rem;padding:0 1rem}summary{font-size:1.25rem;font-weight:600}"
        "iframe{border:0;height:80vh;width:100%}pre{overflow-x:auto}</style>\n</head>\n<body>\n";
    for (const PipelineStage& stage : config_.stages) page += section(stage);
    return write_file_atomically(path("report.html"), page + "</body>\n</html>\n");
  }

  const PipelineConfig& config_;
  const PipelineRequest& request_;
};

// Places that name no stage before.
void check_places(const PipelineConfig& config, size_t stage, post::ConfigTable& table) {
  for (const auto* words : {&config.stages[stage].command, &config.stages[stage].resume}) {
    for (const std::string& word : *words) {
      for (size_t at = word.find(kModel); at != std::string::npos; at = word.find(kModel, at + 1)) {
        const size_t begin = at + sizeof(kModel) - 1, end = word.find('}', at);
        const std::string name = word.substr(begin, end - begin);
        const auto before = std::span(config.stages).first(stage);
        if (end != std::string::npos &&
            std::ranges::find(before, name, &PipelineStage::name) != before.end())
          continue;
        table.add_error(invalid_argument(
            fmt::format("stages.{}: expected {{model:NAME}} with the name of a stage before, found "
                        "{}",
                        stage, json_quoted(word))));
      }
    }
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
  table.tables("stages", [&](post::ConfigTable& t) {
    PipelineStage& stage = config.stages.emplace_back();
    constexpr size_t kMostWords = 4096;
    t.text("name", &stage.name);
    t.texts("command", &stage.command, kMostWords);
    t.texts("resume", &stage.resume, kMostWords);
    if (!is_stage_name(stage.name))
      t.key("name").fail("name", "lower-case letters, digits, - and _", json_quoted(stage.name));
    if (stage.command.empty()) t.key("command").fail("command", "a verb with its options", "none");
    const auto before = std::span(config.stages).first(config.stages.size() - 1);
    if (std::ranges::find(before, stage.name, &PipelineStage::name) != before.end())
      t.key("name").fail("name", "a name of its own", json_quoted(stage.name));
  });
  for (size_t i = 0; i < config.stages.size(); ++i) check_places(config, i, table);
  CACHALOT_RETURN_IF_ERROR(table.finish());
  return config;
}

Result<bool> run_pipeline(const PipelineConfig& config, const PipelineRequest& request) {
  return Pipeline(config, request).run();
}

}  // namespace cachalot::apps
