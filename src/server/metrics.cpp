#include "server/metrics.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>

namespace cachalot::server {
namespace {

void write_head(std::string& page, std::string_view name, std::string_view help,
                std::string_view type) {
  fmt::format_to(std::back_inserter(page), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

void write_value(std::string& page, std::string_view name, double value) {
  fmt::format_to(std::back_inserter(page), "{} {}\n", name, value);
}

// 0 where the system does not say.
double resident_bytes() {
  int64_t size = 0;
  int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

void write_engine(std::string& page, const EngineNumbers& numbers) {
  const auto counter = [&](std::string_view name, std::string_view help, int64_t value) {
    write_counter(page, fmt::format("cachalot_{}_total", name), help, static_cast<double>(value));
  };
  const engine::EngineCounts& counts = numbers.counts;
  counter("engine_steps", "Steps of the model.", counts.steps);
  counter("engine_rows", "Tokens that went through the model.", counts.rows);
  counter("engine_preemptions", "How often an answer gave up its rows, to run them again.",
          counts.preemptions);
  counter("draft_tokens", "Tokens that were drafted.", counts.drafted);
  counter("draft_tokens_accepted", "Drafted tokens that stayed.", counts.accepted);
  const cache::PrefixCounters& prefix = numbers.prefix;
  counter("prefix_lookups", "Prompts that were looked up in the prefix cache.", prefix.lookups);
  counter("prefix_hits", "Prompts of which at least one block was kept.", prefix.hits);
  counter("prefix_disk_hits", "Hits with something from disk.", prefix.disk_hits);
  counter("prefix_reused_tokens", "Tokens of hits that did not run again.", prefix.reused_tokens);
  counter("prefix_recomputed_tokens", "Tokens of hits that ran again all the same.",
          prefix.recomputed_tokens);
  counter("prefix_disk_read_bytes", "Read from the prefix cache on disk.", prefix.disk_read_bytes);
  counter("prefix_disk_written_bytes", "Written to it.", prefix.disk_written_bytes);
  counter("prefix_evicted_blocks", "Blocks that gave way to others.", prefix.evicted_blocks);
  counter("prefix_damaged_records", "Records found damaged on disk, and forgotten.",
          prefix.damaged_records);
  counter("prefix_failed_writes", "Writes to disk that failed.", prefix.failed_writes);
}

}  // namespace

void write_counter(std::string& page, std::string_view name, std::string_view help, double value) {
  write_head(page, name, help, "counter");
  write_value(page, name, value);
}

void write_gauge(std::string& page, std::string_view name, std::string_view help, double value) {
  write_head(page, name, help, "gauge");
  write_value(page, name, value);
}

void Histogram::add(double seconds) {
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  ++counts_[static_cast<size_t>(bound - kBounds.begin())];
  sum_ += seconds;
}

void Histogram::write(std::string& page, std::string_view name, std::string_view help) const {
  write_head(page, name, help, "histogram");
  int64_t below = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    const std::string bound = i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf";
    fmt::format_to(std::back_inserter(page), "{}_bucket{{le=\"{}\"}} {}\n", name, bound, below);
  }
  fmt::format_to(std::back_inserter(page), "{0}_sum {1}\n{0}_count {2}\n", name, sum_, below);
}

void Metrics::add(const api::Usage& usage) {
  used.prompt_tokens += usage.prompt_tokens;
  used.cached_tokens += usage.cached_tokens;
  used.completion_tokens += usage.completion_tokens;
  used.reasoning_tokens += usage.reasoning_tokens;
}

std::string metrics_page(const Metrics& metrics, const EngineNumbers& engine,
                         int64_t num_connections) {
  std::string page;
  write_head(page, "cachalot_http_answers_total", "Answers by HTTP status.", "counter");
  for (const auto& [status, count] : metrics.answers) {
    fmt::format_to(std::back_inserter(page), "cachalot_http_answers_total{{status=\"{}\"}} {}\n",
                   status, count);
  }
  const auto counter = [&](std::string_view name, std::string_view help, int64_t value) {
    write_counter(page, name, help, static_cast<double>(value));
  };
  const auto gauge = [&](std::string_view name, std::string_view help, int64_t value) {
    write_gauge(page, name, help, static_cast<double>(value));
  };
  gauge("cachalot_connections", "Open connections.", num_connections);
  gauge("cachalot_requests_waiting", "Requests of which nothing has run yet.", metrics.num_waiting);
  gauge("cachalot_requests_running", "Requests under way in the engine.", metrics.num_running);
  counter("cachalot_requests_finished_total", "Requests that are over.", metrics.num_finished);
  counter("cachalot_requests_cancelled_total",
          "Those that were cancelled: the client went away or did not read.",
          metrics.num_cancelled);
  counter("cachalot_prompt_tokens_total", "Prompt tokens, as in usage.",
          metrics.used.prompt_tokens);
  counter("cachalot_cached_prompt_tokens_total", "Those of them that came from the prefix cache.",
          metrics.used.cached_tokens);
  counter("cachalot_completion_tokens_total", "Generated tokens, as in usage.",
          metrics.used.completion_tokens);
  counter("cachalot_reasoning_tokens_total", "Those of them that were reasoning.",
          metrics.used.reasoning_tokens);
  metrics.to_first_token.write(page, "cachalot_time_to_first_token_seconds",
                               "From a request to its first token.");
  metrics.between_tokens.write(page, "cachalot_time_between_tokens_seconds",
                               "Between two tokens of an answer.");
  gauge("process_resident_memory_bytes", "Resident memory.",
        static_cast<int64_t>(resident_bytes()));
  write_engine(page, engine);
  return page;
}

}  // namespace cachalot::server
