// The prefix cache measured.
//   prefix_bench curve [--model DIR] [--tokens N] [--hits N] [--out FILE.svg]
//       what states cost to keep against what a hit runs again, over the distance between states,
//       with every block and none as ends (reference/infrastructure 8.2, O3)
//   prefix_bench hit [--preset NAME] [--tokens N] [--directory DIR]
//       a hit of N tokens: from memory, and from disk by a new process with a cold page cache,
//       beside what reading the bytes takes; and the time to open the store, with its index and
//       without
//   prefix_bench gpu [--preset NAME] [--tokens N] [--directory DIR]
//       a hit of N tokens into a GPU's memory, from the host's and from disk with a warm page cache
//       and a cold one, beside reading the files and copying as many bytes
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <random>

#include "apps/svg_chart.h"
#include "base/file.h"
#include "cache/boundary_state.h"
#include "cache/disk_store.h"
#include "cache/prefix_cache.h"
#include "engine/loaded_model.h"
#include "engine/model_cache_layout.h"
#include "engine/runner.h"
#include "formats/presets.h"

namespace cachalot::bench {
namespace {

namespace fs = std::filesystem;
using cache::PrefixCache;
using cache::PrefixCacheOptions;
using cache::PrefixHit;
using cache::SequenceCache;
using cache::StatePolicy;
using cache::StateStrategy;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of all threads.
double cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

std::vector<int32_t> random_ids(int64_t count, int32_t vocab_size) {
  std::mt19937_64 random(5);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size));
  return ids;
}

// ---- curve

struct Point {
  std::string name;
  double stored_bytes;  // of states, per token
  double rerun_tokens;  // of a hit
  double seconds;       // likewise
};

class Curve {
 public:
  static Result<Curve> create(const std::string& path, int64_t num_tokens, int64_t num_hits) {
    CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<engine::LoadedModel> model,
                              engine::LoadedModel::load({.path = path}));
    return Curve(std::move(model), num_tokens, num_hits);
  }

  Result<Point> measure(const std::string& name, const StatePolicy& policy) {
    const model::Transformer& model = model_->transformer();
    CACHALOT_ASSIGN_OR_RETURN(
        cache::CacheLayout layout,
        engine::model_cache_layout(model.config(), model.precision(), {.block_tokens = kBlock}));
    const int64_t num_blocks = 3 * layout.num_blocks(num_tokens_) + 8;
    CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<cache::BlockPool> pool,
                              cache::BlockPool::create(std::move(layout), {num_blocks, 4}));
    PrefixCacheOptions options;
    options.states = policy;
    options.num_layers = model.config().num_hidden_layers;
    options.max_state_bytes = int64_t{4} << 30;
    CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<PrefixCache> cache,
                              PrefixCache::create(*pool, options));
    const std::vector<int32_t> ids = random_ids(num_tokens_, 4096);
    {
      CACHALOT_ASSIGN_OR_RETURN(SequenceCache sequence, SequenceCache::create(*pool));
      while (sequence.num_tokens() < num_tokens_) {
        const int64_t at = sequence.num_tokens();
        CACHALOT_RETURN_IF_ERROR(
            run(sequence, ids, std::min(cache->next_stop(at, num_tokens_), at + kPiece)));
        cache->store(ids, sequence, num_tokens_, false);
      }
    }
    std::mt19937_64 random(11);
    std::vector<double> seconds;
    for (int64_t i = 0; i < num_hits_; ++i) {
      const auto length =
          kBlock + static_cast<int64_t>(random() % static_cast<uint64_t>(num_tokens_ - kBlock));
      const double start = cpu_seconds();  // other programs' turns are no work of a hit
      CACHALOT_ASSIGN_OR_RETURN(PrefixHit hit,
                                cache->find(std::span(ids).first(static_cast<size_t>(length))));
      const int64_t found = hit.cache.num_tokens();
      if (hit.rebuild_from < found) {
        engine::Runner(model, model_->context())
            .rebuild_state(hit.cache,
                           std::span(ids).subspan(static_cast<size_t>(hit.rebuild_from),
                                                  static_cast<size_t>(found - hit.rebuild_from)),
                           kPiece);
      }
      while (hit.cache.num_tokens() < hit.matched_tokens) {
        CACHALOT_RETURN_IF_ERROR(
            run(hit.cache, ids, std::min(hit.matched_tokens, hit.cache.num_tokens() + kPiece)));
      }
      seconds.push_back(cpu_seconds() - start);
    }
    const cache::PrefixCounters counters = cache->counters();
    const double rerun =
        static_cast<double>(counters.recomputed_tokens) / static_cast<double>(num_hits_);
    double total = 0;
    for (const double one : seconds) total += one;
    return Point{
        name, static_cast<double>(counters.stored_state_bytes) / static_cast<double>(num_tokens_),
        rerun, total / static_cast<double>(num_hits_)};
  }

  static constexpr int64_t kBlock = 128;

 private:
  static constexpr int64_t kPiece = 512;
  Curve(std::unique_ptr<engine::LoadedModel> model, int64_t num_tokens, int64_t num_hits)
      : model_(std::move(model)), num_tokens_(num_tokens), num_hits_(num_hits) {}

  Status run(SequenceCache& sequence, const std::vector<int32_t>& ids, int64_t end) {
    const model::Transformer& model = model_->transformer();
    const int64_t at = sequence.num_tokens();
    std::vector<float> streams(
        static_cast<size_t>((end - at) * model.num_streams() * model.config().hidden_size));
    const engine::StepInput input{
        &sequence, std::span(ids).subspan(static_cast<size_t>(at), static_cast<size_t>(end - at))};
    return engine::Runner(model, model_->context()).forward({&input, 1}, streams.data());
  }

  std::unique_ptr<engine::LoadedModel> model_;
  int64_t num_tokens_;
  int64_t num_hits_;
};

apps::SvgChart chart_of(const std::vector<Point>& points, const Point& zero) {
  apps::ChartLine periodic{"a state every p tokens", "#1b5fa8", {}, false, "every block"};
  for (auto it = points.rbegin(); it != points.rend(); ++it)
    periodic.points.emplace_back(it->stored_bytes, it->seconds * 1e3);
  const double least = points.back().stored_bytes, most = points.front().stored_bytes;
  const apps::ChartLine none{"no state kept",
                             "#b8541b",
                             {{least / 2, zero.seconds * 1e3}, {most, zero.seconds * 1e3}},
                             true,
                             ""};
  apps::SvgChart chart;
  chart.title = "Prefix cache: states kept against work at a hit";
  chart.lines = {periodic, none};
  chart.x = apps::log_axis("bytes of states a token", least / 2, most);
  chart.y = apps::linear_axis("processor milliseconds a hit runs again", 0,
                              std::max(points.back().seconds, zero.seconds) * 1e3);
  for (const Point& point : points)
    chart.marks.push_back({point.stored_bytes, "#1b5fa8", point.name});
  chart.has_legend = true;
  chart.right = 80;
  return chart;
}

Status curve(const std::string& model, int64_t num_tokens, int64_t num_hits,
             const std::string& out) {
  CACHALOT_ASSIGN_OR_RETURN(Curve measured, Curve::create(model, num_tokens, num_hits));
  std::vector<Point> points;
  fmt::print("{:>12} {:>14} {:>12} {:>10}\n", "states", "bytes/token", "tokens/hit", "ms/hit");
  const auto show = [](const Point& point) {
    fmt::print("{:>12} {:>14.1f} {:>12.1f} {:>10.2f}\n", point.name, point.stored_bytes,
               point.rerun_tokens, point.seconds * 1e3);
  };
  for (int64_t period = Curve::kBlock; period <= num_tokens / 2; period *= 2) {
    const bool is_full = period == Curve::kBlock;
    CACHALOT_ASSIGN_OR_RETURN(
        const Point point,
        measured.measure(is_full ? "every block" : fmt::format("p = {}", period),
                         {is_full ? StateStrategy::full : StateStrategy::periodic, period, false}));
    show(point);
    points.push_back(point);
  }
  CACHALOT_ASSIGN_OR_RETURN(const Point zero,
                            measured.measure("none", {StateStrategy::zero, 1, false}));
  show(zero);
  if (out.empty()) return {};
  return write_file_atomically(out, std::string_view(apps::svg_file(chart_of(points, zero))));
}

// ---- hit

Result<cache::CacheLayout> layout_of(const std::string& preset) {
  CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig config, formats::preset_config(preset));
  CACHALOT_ASSIGN_OR_RETURN(const model::Precision precision, model::parse_precision("official"));
  return engine::model_cache_layout(config, precision, {});
}

struct Setting {
  std::unique_ptr<cache::BlockPool> pool;
  std::unique_ptr<PrefixCache> cache;
};

Result<Setting> make_setting(const std::string& preset, int64_t num_tokens,
                             const std::string& directory, device::Gpu* gpu = nullptr) {
  CACHALOT_ASSIGN_OR_RETURN(cache::CacheLayout layout, layout_of(preset));
  PrefixCacheOptions options;
  options.num_layers = layout.num_layers() - 1;
  options.states.period_tokens = 8192;
  options.directory = directory;
  options.max_disk_bytes = int64_t{64} << 30;
  options.max_host_bytes = int64_t{4} << 30;
  const int64_t num_blocks = layout.num_blocks(num_tokens) + 8;
  Setting setting;
  CACHALOT_ASSIGN_OR_RETURN(setting.pool,
                            cache::BlockPool::create(std::move(layout), {num_blocks, 4}, gpu));
  CACHALOT_ASSIGN_OR_RETURN(setting.cache, PrefixCache::create(*setting.pool, options));
  return setting;
}

// Touches the pool's pages, which a running engine has touched before.
Status touch(cache::BlockPool& pool, int64_t num_tokens) {
  CACHALOT_ASSIGN_OR_RETURN(SequenceCache sequence, SequenceCache::create(pool));
  CACHALOT_RETURN_IF_ERROR(sequence.reserve(num_tokens));
  for (const int32_t id : sequence.block_ids())
    std::memset(pool.blocks().data(id), 0, static_cast<size_t>(pool.layout().block_bytes()));
  return {};
}

// Takes the pool's memory, which a running engine has taken before.
Status touch_on_gpu(cache::BlockPool& pool, int64_t num_tokens) {
  CACHALOT_ASSIGN_OR_RETURN(SequenceCache sequence, SequenceCache::create(pool));
  return sequence.reserve(num_tokens);
}

Result<double> seconds_of_hit(Setting& setting, const std::vector<int32_t>& ids) {
  const auto start = Clock::now();
  CACHALOT_ASSIGN_OR_RETURN(const PrefixHit hit, setting.cache->find(ids));
  const double seconds = seconds_since(start);
  if (hit.cache.num_tokens() < static_cast<int64_t>(ids.size()) * 9 / 10)
    return data_loss(
        fmt::format("hit: expected {} tokens, found {}", ids.size(), hit.cache.num_tokens()));
  return seconds;
}

void drop_pages(const std::string& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const Fd fd(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    ::fdatasync(fd.get());
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

// Reads all segments once with large reads, as fast as the disk gives them.
double seconds_to_read(const std::string& directory, std::vector<char>& buffer) {
  const auto start = Clock::now();
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() != ".kv") continue;
    const Fd fd(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
    while (::read(fd.get(), buffer.data(), buffer.size()) > 0) {
    }
  }
  return seconds_since(start);
}

Status hit(const std::string& preset, int64_t num_tokens, const std::string& directory) {
  fs::remove_all(directory);
  const std::vector<int32_t> ids = random_ids(num_tokens, 100000);
  int64_t num_bytes = 0;
  {
    CACHALOT_ASSIGN_OR_RETURN(Setting setting, make_setting(preset, num_tokens, directory));
    CACHALOT_ASSIGN_OR_RETURN(SequenceCache sequence, SequenceCache::create(*setting.pool));
    CACHALOT_RETURN_IF_ERROR(sequence.reserve(num_tokens));
    for (const int32_t id : sequence.block_ids())
      std::memset(setting.pool->blocks().data(id), id,
                  static_cast<size_t>(setting.pool->layout().block_bytes()));
    const auto start = Clock::now();
    while (sequence.num_tokens() < num_tokens) {
      const int64_t at = sequence.num_tokens();
      sequence.advance(setting.cache->next_stop(at, num_tokens) - at);
      setting.cache->store(ids, sequence, num_tokens, false);
    }
    const double stored_s = seconds_since(start);
    setting.cache->flush();
    num_bytes = setting.cache->counters().disk_written_bytes;
    fmt::print("{} tokens, {:.1f} MB; stored in {:.0f} ms, on disk after {:.0f} ms\n", num_tokens,
               1e-6 * static_cast<double>(num_bytes), 1e3 * stored_s, 1e3 * seconds_since(start));
    std::vector<double> hits;
    for (int i = 0; i < 9; ++i) {
      CACHALOT_ASSIGN_OR_RETURN(const double seconds, seconds_of_hit(setting, ids));
      hits.push_back(seconds);
    }
    fmt::print("hit in memory: {:.2f} ms (blocks are shared, not copied)\n", 1e3 * median(hits));
  }
  std::vector<char> buffer(size_t{8} << 20);
  std::vector<double> ratios, hits, reads;
  for (int i = 0; i < 5; ++i) {
    drop_pages(directory);
    reads.push_back(seconds_to_read(directory, buffer));
    drop_pages(directory);
    int ends[2];
    if (::pipe(ends) != 0) return io_error("pipe");
    const pid_t child = ::fork();
    if (child == 0) {
      double seconds = -1;
      if (Result<Setting> setting = make_setting(preset, num_tokens, directory);
          setting && touch(*setting->pool, num_tokens).ok()) {
        if (const Result<double> found = seconds_of_hit(*setting, ids)) seconds = *found;
      }
      const bool wrote = ::write(ends[1], &seconds, sizeof(seconds)) == sizeof(seconds);
      ::_exit(wrote ? 0 : 1);
    }
    double seconds = -1;
    const bool has_answer = ::read(ends[0], &seconds, sizeof(seconds)) == sizeof(seconds);
    ::waitpid(child, nullptr, 0);
    ::close(ends[0]), ::close(ends[1]);
    if (!has_answer || seconds < 0) return io_error("the child found nothing");
    hits.push_back(seconds);
    ratios.push_back((seconds - 0.020) / reads.back());
  }
  fmt::print(
      "disk, cold: hit {:.0f} ms, reading the files {:.0f} ms ({:.2f} GB/s); (hit - 20 ms) / "
      "reading: {:.2f}\n",
      1e3 * median(hits), 1e3 * median(reads),
      1e-9 * static_cast<double>(num_bytes) / median(reads), median(ratios));
  for (const bool has_index : {true, false}) {
    if (!has_index) cache::DiskIndex::remove(directory + "/index-1.sqlite");
    const auto start = Clock::now();
    CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<cache::DiskStore> store,
                              cache::DiskStore::open({directory, int64_t{64} << 30, 0}));
    fmt::print("open {}: {:.2f} ms\n", has_index ? "with its index" : "without",
               1e3 * seconds_since(start));
    if (has_index) continue;
    const auto scan = Clock::now();
    while (store->is_recovering()) CACHALOT_RETURN_IF_ERROR(store->recover(1000));
    fmt::print("the index made again: {:.1f} ms\n", 1e3 * seconds_since(scan));
  }
  fs::remove_all(directory);
  return {};
}

// ---- gpu

// All blocks have gone to the host's memory before each hit.
Result<double> seconds_from_host(Setting& setting, const std::vector<int32_t>& ids) {
  std::vector<double> hits;
  for (int i = 0; i < 5; ++i) {
    const int64_t blocks = setting.pool->blocks().max_items();
    if (!setting.cache->make_room(blocks)) return invalid_argument("blocks: found some in use");
    CACHALOT_ASSIGN_OR_RETURN(const double seconds, seconds_of_hit(setting, ids));
    hits.push_back(seconds);
  }
  return median(std::move(hits));
}

Status gpu_hit(const std::string& preset, int64_t num_tokens, const std::string& directory) {
  fs::remove_all(directory);
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<device::Gpu> gpu, device::Gpu::open(0));
  const std::vector<int32_t> ids = random_ids(num_tokens, 100000);
  int64_t num_bytes = 0;
  double from_host_s = 0;
  {
    CACHALOT_ASSIGN_OR_RETURN(Setting setting,
                              make_setting(preset, num_tokens, directory, gpu.get()));
    {
      CACHALOT_ASSIGN_OR_RETURN(SequenceCache sequence, SequenceCache::create(*setting.pool));
      CACHALOT_RETURN_IF_ERROR(sequence.reserve(num_tokens));
      for (const int32_t id : sequence.block_ids())
        gpu->fill(setting.pool->blocks().data(id), static_cast<uint8_t>(id),
                  setting.pool->layout().block_bytes());
      while (sequence.num_tokens() < num_tokens) {
        const int64_t at = sequence.num_tokens();
        sequence.advance(setting.cache->next_stop(at, num_tokens) - at);
        setting.cache->store(ids, sequence, num_tokens, false);
      }
    }
    setting.cache->flush();
    num_bytes = setting.cache->counters().disk_written_bytes;
    CACHALOT_ASSIGN_OR_RETURN(from_host_s, seconds_from_host(setting, ids));
  }
  std::vector<char> buffer(size_t{8} << 20);
  const double gigabytes = 1e-9 * static_cast<double>(num_bytes);
  constexpr int64_t kPieceBytes = int64_t{32} << 20;
  CACHALOT_ASSIGN_OR_RETURN(device::Buffer there, device::Buffer::create(kPieceBytes, gpu.get()));
  gpu->begin_tables();
  const auto* piece = gpu->table<std::byte>(kPieceBytes);
  gpu->copy(there.data(), piece, kPieceBytes);
  const auto start = Clock::now();
  for (int i = 0; i < 16; ++i) gpu->copy(there.data(), piece, kPieceBytes);
  const double copy_rate = 16e-9 * kPieceBytes / seconds_since(start);
  fmt::print(
      "{} tokens, {:.3f} GB, from the host's memory: hit {:.2f} ms ({:.2f} GB/s), copies to the "
      "GPU "
      "run at {:.2f} GB/s\n",
      num_tokens, gigabytes, 1e3 * from_host_s, gigabytes / from_host_s, copy_rate);
  for (const bool is_cold : {false, true}) {
    std::vector<double> hits, reads;
    for (int i = 0; i < 5; ++i) {
      if (is_cold) drop_pages(directory);
      reads.push_back(seconds_to_read(directory, buffer));
      CACHALOT_ASSIGN_OR_RETURN(Setting setting,
                                make_setting(preset, num_tokens, directory, gpu.get()));
      CACHALOT_RETURN_IF_ERROR(touch_on_gpu(*setting.pool, num_tokens));
      if (is_cold) drop_pages(directory);
      CACHALOT_ASSIGN_OR_RETURN(const double seconds, seconds_of_hit(setting, ids));
      hits.push_back(seconds);
    }
    fmt::print(
        "{} tokens, {:.3f} GB, {}: hit {:.1f} ms ({:.2f} GB/s); one thread reads the files at "
        "{:.2f} GB/s, copies to the GPU run at {:.2f} GB/s\n",
        num_tokens, gigabytes, is_cold ? "cold" : "from a warm page cache", 1e3 * median(hits),
        gigabytes / median(hits), gigabytes / median(reads), copy_rate);
  }
  fs::remove_all(directory);
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("The prefix cache measured");
  app.require_subcommand(1);
  std::string model = "models/nano", preset = "mini", out, directory = "prefix_bench.tmp";
  int64_t curve_tokens = 4096, num_hits = 12, hit_tokens = 100000;
  CLI::App* curve_command = app.add_subcommand("curve", "states kept against work at a hit");
  curve_command->add_option("--model", model, "model directory");
  curve_command->add_option("--tokens", curve_tokens, "of the text");
  curve_command->add_option("--hits", num_hits, "of each strategy");
  curve_command->add_option("--out", out, "the chart");
  CLI::App* hit_command = app.add_subcommand("hit", "one long hit");
  CLI::App* gpu_command = app.add_subcommand("gpu", "one long hit, into a GPU's memory");
  for (CLI::App* command : {hit_command, gpu_command}) {
    command->add_option("--preset", preset, "whose rows: mini, flash, pro");
    command->add_option("--tokens", hit_tokens, "of the text");
    command->add_option("--directory", directory, "is emptied and removed");
  }
  CLI11_PARSE(app, argc, argv);
  const Status status = curve_command->parsed() ? curve(model, curve_tokens, num_hits, out)
                        : gpu_command->parsed() ? gpu_hit(preset, hit_tokens, directory)
                                                : hit(preset, hit_tokens, directory);
  if (!status.ok()) fmt::print(stderr, "error: {}\n", status.message());
  return status.ok() ? 0 : 2;
}

}  // namespace
}  // namespace cachalot::bench

int main(int argc, char** argv) { return cachalot::bench::run(argc, argv); }
