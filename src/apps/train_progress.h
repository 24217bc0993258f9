// How a training run looks while it runs: on a terminal one line rewritten in place, events above
// it; piped, a plain line of "name value" pairs every few steps. A step without targets has the
// loss "none".
#pragma once

#include <optional>
#include <string>

#include "train/run.h"

namespace cachalot::apps {

// One line of at most `width` columns; the bar takes what the numbers leave, if that is enough to
// be one.
struct ProgressNumbers {
  int64_t step = 0;
  double share_done = 0;       // of the budget's tokens
  std::optional<double> loss;  // none before the first target
  double learning_rate = 0;
  double tokens_per_s = 0;
  double share_of_peak = 0;
  double seconds_left = 0;
};
std::string progress_line(const ProgressNumbers& n, int width);

class TrainProgress : public train::RunObserver {
 public:
  // Steps are told every log_every_steps where standard output is no terminal.
  TrainProgress(int64_t total_tokens, int64_t log_every_steps);
  ~TrainProgress() override { clear(); }
  void on_step(const train::StepResult& result, const train::MetricValues& values) override;
  void on_budget(const train::RunBudget& budget) override;
  void on_event(int64_t step, std::string_view event, std::string_view detail) override;
  bool wants_stop() override;
  // Ctrl-C ends the run after its step, which is said at once; a second one ends the program.
  void watch_stop() const;
  void clear();  // the line that is rewritten, if there is one

 private:
  int64_t total_tokens_;
  int64_t log_every_steps_;
  bool is_terminal_;
  bool is_dirty_ = false;
  std::optional<double> loss_;  // smoothed, of the steps that had targets
  double tokens_per_s_ = 0;     // smoothed
  bool has_steps_ = false;
};

}  // namespace cachalot::apps
