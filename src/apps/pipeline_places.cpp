#include "apps/pipeline_places.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "train/checkpoint.h"
#include "train/metrics.h"

namespace cachalot::apps {
namespace {

constexpr std::string_view kRun = "{run}", kSteps = "{steps}";
constexpr std::string_view kModel = "{model:", kTokens = "{tokens:";

// The step of the checkpoint that a stage has come to.
Result<int64_t> chosen_step(const std::string& stage) {
  std::error_code error;
  if (std::filesystem::exists(stage + ".rounds", error)) {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<PipelineRound> rounds,
                              read_rounds(stage + ".rounds"));
    if (!rounds.empty()) return rounds[best_round(rounds)].step;
  }
  const std::vector<int64_t> steps = train::list_checkpoints(stage);
  if (!steps.empty()) return steps.back();
  return invalid_argument(fmt::format("{}: expected a checkpoint of stage {}, found none", stage,
                                      std::filesystem::path(stage).filename().string()));
}

Result<std::string> value_of(std::string_view kind, const std::string& stage) {
  CACHALOT_ASSIGN_OR_RETURN(const int64_t step, chosen_step(stage));
  if (kind == kModel) return train::checkpoint_directory(stage, step);
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<train::MetricsLine> lines,
                            train::read_metrics(stage + "/metrics.jsonl"));
  int64_t tokens = 0;
  for (const train::MetricsLine& line : lines) {
    if (line.event.empty() && line.step <= step) tokens = line.tokens;
  }
  return fmt::format("{}", tokens);
}

// Which place stands at `at`, and where it ends; none: another text.
struct Found {
  std::string_view kind, name;
  size_t end = 0;
};
std::optional<Found> place_at(std::string_view word, size_t at) {
  for (const std::string_view kind : {kModel, kTokens}) {
    if (!word.substr(at).starts_with(kind)) continue;
    const size_t begin = at + kind.size(), end = word.find('}', begin);
    if (end == std::string_view::npos) return Found{kind, {}, word.size()};
    return Found{kind, word.substr(begin, end - begin), end + 1};
  }
  return {};
}

}  // namespace

Result<std::vector<PipelineRound>> read_rounds(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  std::vector<PipelineRound> rounds;
  std::string_view rest = text;
  // A torn last line is left out.
  for (size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
    CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(rest.substr(0, end), path));
    rest.remove_prefix(end + 1);
    PipelineRound& round = rounds.emplace_back();
    const json::object* object = value.if_object();
    const std::pair<const char*, int64_t*> fields[] = {
        {"step", &round.step}, {"correct", &round.correct}, {"count", &round.count}};
    for (const auto& [name, out] : fields) {
      const json::value* found = object == nullptr ? nullptr : object->if_contains(name);
      if (found == nullptr || !found->is_int64())
        return data_loss(fmt::format("{}: expected {} of each round, found none", path, name));
      *out = found->get_int64();
    }
  }
  return rounds;
}

std::string round_line(const PipelineRound& round) {
  return fmt::format("{{\"step\": {}, \"correct\": {}, \"count\": {}}}\n", round.step,
                     round.correct, round.count);
}

size_t best_round(const std::vector<PipelineRound>& rounds) {
  size_t best = 0;
  for (size_t i = 1; i < rounds.size(); ++i) {
    // Shares, without dividing.
    if (rounds[i].correct * rounds[best].count > rounds[best].correct * rounds[i].count) best = i;
  }
  return best;
}

std::vector<std::string> places_of(std::string_view word) {
  std::vector<std::string> names;
  for (size_t at = 0; at < word.size(); ++at) {
    if (const std::optional<Found> found = place_at(word, at)) names.emplace_back(found->name);
  }
  return names;
}

Result<std::vector<std::string>> with_places(const std::string& run_dir,
                                             const std::vector<std::string>& words, int64_t steps) {
  std::vector<std::string> out;
  for (const std::string& word : words) {
    std::string& made = out.emplace_back();
    for (size_t at = 0; at < word.size();) {
      const std::string_view rest = std::string_view(word).substr(at);
      if (rest.starts_with(kRun)) {
        made += run_dir;
        at += kRun.size();
      } else if (rest.starts_with(kSteps)) {
        made += fmt::format("{}", steps);
        at += kSteps.size();
      } else if (const std::optional<Found> found = place_at(word, at)) {
        CACHALOT_ASSIGN_OR_RETURN(
            const std::string value,
            value_of(found->kind, fmt::format("{}/{}", run_dir, found->name)));
        made += value;
        at = found->end;
      } else {
        made += word[at++];
      }
    }
  }
  return out;
}

}  // namespace cachalot::apps
