#include "apps/binary.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/test_data.h"
#include "formats/test_checkpoint.h"

namespace cachalot::apps {
namespace {

// `child` gets SIGINT once the text holds interrupt_at.
std::string drain(int fd, pid_t child = -1, const std::string& interrupt_at = "") {
  bool waits = !interrupt_at.empty();
  std::string text;
  char buffer[4096];
  for (ssize_t count = 0; (count = ::read(fd, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(count));
    if (!waits || text.find(interrupt_at) == std::string::npos) continue;
    waits = false;
    ::kill(child, SIGINT);
  }
  ::close(fd);
  return text;
}

std::vector<std::string> words_of(const std::vector<std::string>& arguments) {
  const char* carried = std::getenv("CACHALOT_TEST_BINARY");  // as CACHALOT_TEST_DATA
  std::vector<std::string> words = {carried == nullptr ? CACHALOT_BINARY : carried};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

// Borrows the words.
std::vector<char*> argv_of(std::vector<std::string>& words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return argv;
}

// As waited for.
int exit_code_of(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

const formats::TemporaryDirectory& directory() {
  static const formats::TemporaryDirectory made("apps-test");
  return made;
}

formats::ModelConfig small_config() {
  formats::ModelConfig config;
  config.vocab_size = 2048;
  config.hidden_size = 128;
  config.num_hidden_layers = 4;
  config.num_hash_layers = 1;
  config.num_nextn_predict_layers = 1;
  config.num_attention_heads = 4;
  config.head_dim = 64;
  config.qk_rope_head_dim = 32;
  config.q_lora_rank = 64;
  config.o_groups = 2;
  config.o_lora_rank = 64;
  config.sliding_window = 32;
  config.compress_ratios = {0, 4, 128, 4, 0};
  config.index_n_heads = 4;
  config.index_head_dim = 64;
  config.index_topk = 16;
  config.n_routed_experts = 4;
  config.num_experts_per_tok = 2;
  config.moe_intermediate_size = 64;
  config.max_position_embeddings = 4096;
  return config;
}

}  // namespace

Outcome run_binary(const std::vector<std::string>& arguments, const std::string& input,
                   const std::vector<std::pair<std::string, std::string>>& environment,
                   const std::string& output, const std::string& interrupt_at) {
  std::vector<std::string> words = words_of(arguments);
  std::vector<char*> argv = argv_of(words);
  int in[2];
  int out[2];
  int err[2];
  if (::pipe(in) != 0 || ::pipe(out) != 0 || ::pipe(err) != 0) return {};
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("CACHALOT_THREADS", "1",
             1);  // where --threads says nothing: tests run beside each other
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::dup2(in[0], STDIN_FILENO);
    const int file = output.empty() ? out[1] : ::open(output.c_str(), O_WRONLY | O_CLOEXEC);
    ::dup2(file, STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    for (const int fd : {in[0], in[1], out[0], out[1], err[0], err[1]}) ::close(fd);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  for (const int fd : {in[0], out[1], err[1]}) ::close(fd);
  Outcome outcome;
  std::thread reader([&] { outcome.err = drain(err[0]); });
  // The inputs of these tests fit a pipe's buffer.
  EXPECT_EQ(::write(in[1], input.data(), input.size()), static_cast<ssize_t>(input.size()));
  ::close(in[1]);
  outcome.out = drain(out[0], child, interrupt_at);
  reader.join();
  outcome.exit_code = exit_code_of(child);
  return outcome;
}

Outcome run_in_terminal(const std::vector<std::string>& arguments, const std::string& input) {
  std::vector<std::string> words = words_of(arguments);
  const std::vector<char*> argv = argv_of(words);
  const std::string state = scratch_path("state");
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  if (child == 0) {
    ::setenv("CACHALOT_THREADS", "1", 1);
    ::setenv("TERM", "dumb", 1);
    ::setenv("XDG_STATE_HOME", state.c_str(), 1);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  if (child < 0) return {};
  EXPECT_EQ(::write(terminal, input.data(), input.size()), static_cast<ssize_t>(input.size()));
  Outcome outcome;
  outcome.out = drain(terminal);
  outcome.exit_code = exit_code_of(child);
  return outcome;
}

json::object run_json(const std::vector<std::string>& arguments) {
  const Outcome outcome = run_binary(arguments);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const Result<json::value> value = parse_json(outcome.out, "standard output");
  EXPECT_TRUE(value.has_value()) << outcome.out;
  return value && value->is_object() ? value->get_object() : json::object();
}

std::vector<int64_t> ids_of(const json::object& completion) {
  std::vector<int64_t> ids;
  const json::value* value = completion.if_contains("ids");
  if (value == nullptr || !value->is_array()) return ids;
  for (const json::value& id : value->get_array()) ids.push_back(id.to_number<int64_t>());
  return ids;
}

const std::string& model_directory() {
  static const std::string path = [] {
    const std::string made = directory().path("model");
    std::filesystem::create_directories(made);
    EXPECT_TRUE(formats::write_random_model(made, small_config(), int64_t{1} << 30).ok());
    std::filesystem::copy_file(test_data("tokenizer/peer-tokenizer.json"),
                               made + "/tokenizer.json");
    return made;
  }();
  return path;
}

std::string scratch_path(const std::string& name) { return directory().path(name); }

}  // namespace cachalot::apps
