// Numbers about the server, in the text format of Prometheus.
// Threads  one: the server's I/O thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "api/usage.h"
#include "cache/prefix_cache.h"
#include "engine/engine.h"

namespace cachalot::server {

// Appends to a page, each metric with its help and type.
void write_counter(std::string& page, std::string_view name, std::string_view help, double value);
void write_gauge(std::string& page, std::string_view name, std::string_view help, double value);

// How many durations lay up to each of a row of bounds.
class Histogram {
 public:
  void add(double seconds);
  void write(std::string& page, std::string_view name, std::string_view help) const;

 private:
  static constexpr std::array<double, 17> kBounds = {
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 600};
  std::array<int64_t, kBounds.size() + 1> counts_{};
  double sum_ = 0;
};

struct Metrics {
  std::map<int, int64_t> answers;  // by HTTP status
  // Requests of the engine: waiting until something of them has run, then running.
  int64_t num_waiting = 0;
  int64_t num_running = 0;
  int64_t num_finished = 0;   // cancelled ones with them
  int64_t num_cancelled = 0;  // because their client went away or was too slow, or the server ends
  api::Usage used;            // of all calls that are over
  Histogram to_first_token;   // from the end of the request's head
  Histogram between_tokens;   // of one answer

  void add(const api::Usage& usage);
};

// What is read on the engine's thread.
struct EngineNumbers {
  engine::EngineCounts counts;
  cache::PrefixCounters prefix;
};

std::string metrics_page(const Metrics& metrics, const EngineNumbers& engine,
                         int64_t num_connections);

}  // namespace cachalot::server
