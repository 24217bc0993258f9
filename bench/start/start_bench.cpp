// From exec to the first token of a prompt of four tokens, and the peak of memory, with a warm page
// cache: with a file of packed weights, without one (it is made), and with none kept. Binaries and
// cases take turns; medians.
//   start_bench --directory DIR [--runs N] [--threads N] BINARY...
// DIR gets a random model of Flash's widths, 1.4 GB, unless it has one; and the packed files.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "formats/test_checkpoint.h"

namespace cachalot::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::string_view kConfig =
    R"({"model_type": "deepseek_v4", "vocab_size": 16384, "hidden_size": 4096,
 "moe_intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512,
 "qk_rope_head_dim": 64, "q_lora_rank": 1024, "o_groups": 8, "o_lora_rank": 1024, "n_routed_experts": 16, "n_shared_experts": 1,
 "num_experts_per_tok": 6, "routed_scaling_factor": 1.5, "num_hash_layers": 1, "sliding_window": 128, "index_n_heads": 64,
 "index_head_dim": 128, "index_topk": 512, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "swiglu_limit": 10.0,
 "rope_theta": 10000, "compress_rope_theta": 160000, "rope_scaling": {"type": "yarn", "factor": 16,
 "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}, "compress_ratios": [0, 4, 128, 4],
 "num_nextn_predict_layers": 0, "max_position_embeddings": 1048576, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
 "expert_dtype": "fp4", "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
 "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}})";

enum class Case { mapped, made, none };
constexpr const char* kNames[] = {"packed file", "made anew", "none kept"};

struct Start {
  double seconds;      // to the first byte of the answer
  double cpu_seconds;  // of all threads by the end, writing packed weights included
  double peak_bytes;   // by then
};

int64_t checkpoint_bytes(const std::string& directory) {
  int64_t total = 0;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors")
      total += static_cast<int64_t>(entry.file_size());
  }
  return total;
}

Status prepare(const std::string& directory) {
  if (fs::exists(directory + "/config.json")) return {};
  CACHALOT_RETURN_IF_ERROR(create_directories(directory));
  CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig config,
                            formats::parse_config(kConfig, "built-in config"));
  return formats::write_random_model(directory, config, int64_t{1} << 40);
}

Start start(const std::string& binary, const std::string& model, const std::string& cache,
            const std::string& threads, Case which) {
  if (which == Case::made) fs::remove_all(cache);
  ::setenv("CACHALOT_CACHE_DIR", cache.c_str(), 1);
  ::setenv("CACHALOT_CACHE_GIB", which == Case::none ? "0" : "32", 1);
  int out[2];
  if (::pipe(out) != 0) std::abort();
  const Clock::time_point begin = Clock::now();
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(::open("/dev/null", O_WRONLY), STDERR_FILENO);
    ::close(out[0]);
    ::execl(binary.c_str(), binary.c_str(), "generate", model.c_str(), "--prompt-ids", "1,2,3,4",
            "--max-tokens", "1", "--json", "--greedy", "--threads", threads.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(out[1]);
  char byte = 0;
  const bool answered = ::read(out[0], &byte, 1) == 1;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  int status = 0;
  rusage usage{};
  while (::read(out[0], &byte, 1) == 1) {
  }
  ::close(out[0]);
  ::wait4(child, &status, 0, &usage);
  if (!answered || status != 0) {
    fmt::print(stderr, "error: {}: expected an answer, found exit status {}\n", binary, status);
    std::exit(2);
  }
  const timeval user = usage.ru_utime, system = usage.ru_stime;
  return {seconds,
          static_cast<double>(user.tv_sec + system.tv_sec) +
              static_cast<double>(user.tv_usec + system.tv_usec) * 1e-6,
          static_cast<double>(usage.ru_maxrss) * 1024};
}

double median(std::vector<Start> starts, double Start::*value) {
  std::ranges::sort(starts, {}, value);
  return starts[starts.size() / 2].*value;
}

int run(int argc, char** argv) {
  CLI::App app("time from exec to the first token, and peak memory");
  std::string directory, threads = "0";
  std::vector<std::string> binaries;
  int runs = 5;
  app.add_option("--directory", directory, "the model and the packed files")->required();
  app.add_option("--runs", runs, "of each case")->check(CLI::Range(1, 1000));
  app.add_option("--threads", threads, "0: one per usable core");
  app.add_option("binary", binaries, "cachalot, one or more")->required();
  CLI11_PARSE(app, argc, argv);

  const std::string model = directory + "/model";
  if (const Status made = prepare(model); !made.ok()) {
    fmt::print(stderr, "error: {}\n", made.to_string());
    return 2;
  }
  std::vector<std::vector<Start>> starts(binaries.size() * 3);
  for (int i = 0; i < runs; ++i) {
    for (size_t b = 0; b < binaries.size(); ++b) {
      for (const Case which : {Case::made, Case::mapped, Case::none}) {
        starts[b * 3 + static_cast<size_t>(which)].push_back(
            start(binaries[b], model, fmt::format("{}/packed-{}", directory, b), threads, which));
      }
    }
  }
  const auto weights = static_cast<double>(checkpoint_bytes(model));
  fmt::print("weights {:.3f} GB, {} runs, medians\n", weights * 1e-9, runs);
  for (size_t i = 0; i < starts.size(); ++i) {
    fmt::print(
        "{}: {:<12} {:.3f} s to the first token, {:.3f} s of the processor, "
        "peak {:.3f} GB ({:.2f} of the weights)\n",
        binaries[i / 3], kNames[i % 3], median(starts[i], &Start::seconds),
        median(starts[i], &Start::cpu_seconds), median(starts[i], &Start::peak_bytes) * 1e-9,
        median(starts[i], &Start::peak_bytes) / weights);
  }
  return 0;
}

}  // namespace
}  // namespace cachalot::bench

int main(int argc, char** argv) { return cachalot::bench::run(argc, argv); }
