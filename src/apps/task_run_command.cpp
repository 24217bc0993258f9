#include "apps/task_run_command.h"

#include <fmt/format.h>

#include <charconv>

#include "apps/interrupts.h"
#include "apps/report.h"
#include "apps/training_command.h"
#include "base/log.h"
#include "device/isa.h"
#include "rollout/hub.h"

namespace cachalot::apps {
namespace {

class Progress : public post::TaskRunObserver {
 public:
  explicit Progress(std::span<const ShownValue> shown) : shown_(shown) {}

  void on_step(int64_t step, const train::MetricValues& values) override {
    const auto value = [&](std::string_view name) {
      for (const auto& [key, found] : values) {
        if (key == name) return found;
      }
      return 0.0;
    };
    fmt::print("step {:>5}", step);
    for (const ShownValue& one : shown_)
      fmt::print("  {} {}", one.label, fmt::format(fmt::runtime(one.format), value(one.metric)));
    fmt::print("  {:.1f} s\n",
               value("time/rollouts") + value("time/rewards") + value("time/updates"));
    std::fflush(stdout);
  }
  void on_event(int64_t step, std::string_view event, std::string_view detail) override {
    fmt::print("step {:>5}  {}: {}\n", step, event, detail);
    std::fflush(stdout);
  }
  bool wants_stop() override { return interrupts() > 0; }

 private:
  std::span<const ShownValue> shown_;
};

Result<std::unique_ptr<rollout::Hub>> listen_for_workers(const TaskRunOptions& options,
                                                         const std::string& run_dir) {
  CACHALOT_ASSIGN_OR_RETURN(const Address address, parse_address(options.listen));
  rollout::HubOptions hub_options;
  hub_options.directory = run_dir + "/weights";
  hub_options.host = address.host;
  hub_options.port = address.port;
  hub_options.lease_seconds = options.lease_seconds;
  if (!options.keys_file.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(hub_options.keys, server::ApiKeys::load(options.keys_file));
  }
  const bool has_keys = !hub_options.keys.empty();
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<rollout::Hub> hub,
                            rollout::Hub::listen(std::move(hub_options)));
  fmt::print("workers: cachalot rollout {}:{} --work DIRECTORY\n", address.host, hub->port());
  std::fflush(stdout);
  if (!has_keys && !hub->is_local())
    log_warning("other machines can reach this run, and it asks workers for no key (--api-keys)");
  return hub;
}

}  // namespace

Result<Address> parse_address(const std::string& text) {
  const size_t colon = text.rfind(':');
  Address address;
  if (colon != std::string::npos) {
    address.host = text.substr(0, colon);
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, address.port);
    if (address.host.starts_with('[') && address.host.ends_with(']'))
      address.host = address.host.substr(1, address.host.size() - 2);
    if (address.host.empty()) address.host = "127.0.0.1";
    if (error == std::errc() && stop == end) return address;
  }
  return invalid_argument(fmt::format("expected host:port, found \"{}\"", text));
}

void add_task_run_options(CLI::App* command, TaskRunOptions* options) {
  command->add_option("files", options->files, "configuration files, later over earlier ones")
      ->required();
  command->add_flag("--resume", options->request.resume,
                    "go on from the newest checkpoint of run_dir and the answers after it");
  command->add_flag("--dry-run", options->dry_run,
                    "print the configuration with defaults, and stop");
  command->add_option("--stop-at-step", options->request.stop_at_step,
                      "end with a checkpoint after this step");
  constexpr const char* kWorkers = "Workers";
  command
      ->add_option("--listen", options->listen,
                   "host:port for workers (cachalot rollout), which sample in this process's place")
      ->group(kWorkers);
  command
      ->add_option("--api-keys", options->keys_file,
                   "file of keys, one of which a worker must have (docs/serving.md)")
      ->group(kWorkers);
  command
      ->add_option("--lease-seconds", options->lease_seconds,
                   "without a token, before another worker may have its group")
      ->check(CLI::Range(0.01, 1e6))
      ->group(kWorkers);
}

Result<int> shown_task_run(
    const CLI::App& command, const TaskRunOptions& options, const post::TaskRunConfig& config,
    std::span<const ShownValue> shown,
    const std::function<Result<post::TaskRunSummary>(
        device::ExecContext&, const post::TaskRunRequest&, post::TaskRunObserver&)>& run) {
  if (options.dry_run) {
    fmt::print("{}", config.resolved);
    return 0;
  }
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  ThreadPool pool(options.threads);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  Progress progress(shown);
  watch_interrupts(1);
  post::TaskRunRequest request = options.request;
  std::unique_ptr<rollout::Hub> hub;
  if (!options.listen.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(hub, listen_for_workers(options, config.train.run_dir));
    request.sampler = hub.get();
  }
  CACHALOT_ASSIGN_OR_RETURN(const post::TaskRunSummary summary, run(ctx, request, progress));
  if (hub != nullptr && summary.is_done) hub->finish();
  // The run is whole without its page.
  const std::vector<std::string> run_dir = {config.train.run_dir};
  if (const Status status = write_report(run_dir, ""); !status.ok())
    log_warning(fmt::format("report: {}", status.message()));
  fmt::print("{} after {} of {} steps; the last checkpoint: {}; report: {}\n",
             summary.is_done ? "done" : "stopped", summary.step, config.steps, summary.checkpoint,
             report_path(run_dir, ""));
  if (!summary.is_done) {
    fmt::print("go on: {} {} {}/run.toml --resume\n", command.get_parent()->get_name(),
               command.get_name(), config.train.run_dir);
  }
  return interrupts() > 0 && !summary.is_done ? kInterrupted : 0;
}

}  // namespace cachalot::apps
