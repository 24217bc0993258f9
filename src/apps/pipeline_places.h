// What commands of a pipeline's stages say of other stages: {run}; {model:NAME} the directory of
// the checkpoint that stage NAME has come to (of a stage in rounds its best one); {tokens:NAME} the
// tokens that it has trained on by then; {steps} of a stage in rounds, where this round ends. What
// the configuration's own [values] name is put in when it is read.
// Errors  invalid_argument: a stage without a checkpoint; those of its log.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::apps {

// RUN/NAME.rounds: a line of JSON a round of a stage that is done until its score rises no more.
struct PipelineRound {
  int64_t step = 0;
  int64_t correct = 0, count = 0;
};
Result<std::vector<PipelineRound>> read_rounds(const std::string& path);
std::string round_line(const PipelineRound& round);
// The first of those with the best score; of at least one.
size_t best_round(const std::vector<PipelineRound>& rounds);

// Names of stages in {model:NAME} and {tokens:NAME}; an empty one where the brace never closes.
std::vector<std::string> places_of(std::string_view word);

// {steps} is `steps`.
Result<std::vector<std::string>> with_places(const std::string& run_dir,
                                             const std::vector<std::string>& words, int64_t steps);

}  // namespace cachalot::apps
