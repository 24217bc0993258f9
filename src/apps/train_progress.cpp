#include "apps/train_progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "apps/interrupts.h"
#include "apps/terminal.h"

namespace cachalot::apps {
namespace {

constexpr double kSmoothing = 0.1;  // weight of the newest step
constexpr int kLeastBar = 8, kMostBar = 30;

int terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

double value_of(const train::MetricValues& values, std::string_view name) {
  for (const auto& [key, value] : values) {
    if (key == name) return value;
  }
  return 0;
}

// A step without a target has no loss.
std::string loss_text(std::optional<double> loss, int digits) {
  return loss ? fmt::format("{:.{}f}", *loss, digits) : "none";
}

std::string rate_text(double per_s) {
  return per_s < 10000 ? fmt::format("{:.0f}", per_s) : fmt::format("{:.1f}k", per_s / 1000);
}

}  // namespace

std::string progress_line(const ProgressNumbers& n, int width) {
  std::string text =
      fmt::format("step {}  {:.1f} %  loss {}  lr {:.2g}  {} tok/s  {:.0f} % of peak  ETA {}",
                  grouped(n.step), 100 * n.share_done, loss_text(n.loss, 4), n.learning_rate,
                  rate_text(n.tokens_per_s), 100 * n.share_of_peak, duration_text(n.seconds_left));
  const int left = width - 1 - static_cast<int>(text.size()) - 3;
  if (left < kLeastBar) {
    // Whole fields, as many as fit.
    while (static_cast<int>(text.size()) >= std::max(width, 1)) {
      const size_t field = text.rfind("  ");
      text.resize(field == std::string::npos ? 0 : field);
    }
    return text;
  }
  const int bar = std::min(left, kMostBar);
  const int full = static_cast<int>(std::clamp(n.share_done, 0.0, 1.0) * bar);
  return fmt::format("[{:#<{}}{:.<{}}] {}", "", full, "", bar - full, text);
}

TrainProgress::TrainProgress(int64_t total_tokens, int64_t log_every_steps)
    : total_tokens_(total_tokens),
      log_every_steps_(log_every_steps),
      is_terminal_(is_terminal(STDOUT_FILENO)) {}

void TrainProgress::clear() {
  if (!is_dirty_) return;
  fmt::print("\r\x1b[K");
  std::fflush(stdout);
  is_dirty_ = false;
}

void TrainProgress::on_step(const train::StepResult& result, const train::MetricValues& values) {
  const double tokens_per_s = value_of(values, "throughput/tokens_per_s");
  const double weight = has_steps_ ? kSmoothing : 1.0;
  const bool has_loss = result.num_targets > 0;
  if (has_loss) {
    loss_ = loss_ && std::isfinite(*loss_) ? *loss_ + kSmoothing * (result.lm_loss - *loss_)
                                           : result.lm_loss;
  }
  tokens_per_s_ += weight * (tokens_per_s - tokens_per_s_);
  has_steps_ = true;
  const auto left = static_cast<double>(total_tokens_ - result.tokens_seen);
  if (!is_terminal_) {
    if (result.step % log_every_steps_ != 0 && result.tokens_seen < total_tokens_) return;
    fmt::print(
        "step {} tokens {} loss {} mtp {} lr {:.4g} grad_norm {:.4g} tokens_per_s {:.0f} "
        "share_of_peak {:.3f} eta_s {:.0f}\n",
        result.step, result.tokens_seen,
        loss_text(has_loss ? std::optional(result.lm_loss) : std::nullopt, 5),
        loss_text(has_loss ? std::optional(result.mtp_loss) : std::nullopt, 5),
        result.point.learning_rate, result.optimizer.grad_norm, tokens_per_s,
        value_of(values, "throughput/share_of_peak"), left / tokens_per_s_);
    std::fflush(stdout);
    return;
  }
  ProgressNumbers n;
  n.step = result.step;
  n.share_done = static_cast<double>(result.tokens_seen) / static_cast<double>(total_tokens_);
  n.loss = loss_;
  n.learning_rate = result.point.learning_rate;
  n.tokens_per_s = tokens_per_s_;
  n.share_of_peak = value_of(values, "throughput/share_of_peak");
  n.seconds_left = left / tokens_per_s_;
  fmt::print("\r{}\x1b[K", progress_line(n, terminal_width()));
  std::fflush(stdout);
  is_dirty_ = true;
}

void TrainProgress::on_budget(const train::RunBudget& budget) {
  fmt::print("budget     {} tokens, {:.1f} passes over the data, about {}\n",
             grouped(budget.tokens), budget.passes, duration_text(budget.seconds));
  std::fflush(stdout);
}

void TrainProgress::on_event(int64_t step, std::string_view event, std::string_view detail) {
  if (is_terminal_ && event == "checkpoint") return;  // they come all the time
  clear();
  if (event == "note") {
    fmt::print("note: {}\n", printable(detail));
  } else if (event == "sample") {
    std::string line = printable(detail);
    std::replace_if(
        line.begin(), line.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
    fmt::print("step {} sample: {}\n", step, line);
  } else {
    fmt::print("step {} {}: {}\n", step, event, printable(detail));
  }
  std::fflush(stdout);
}

void TrainProgress::watch_stop() const {
  // On a terminal the line is taken by the numbers and "^C".
  static constexpr char kTold[] =
      "\nstopping after this step ... (Ctrl-C again: at once, without a new checkpoint)\n";
  watch_interrupts(1, is_terminal_ ? kTold : kTold + 1);
}

bool TrainProgress::wants_stop() { return interrupts() > 0; }

}  // namespace cachalot::apps
