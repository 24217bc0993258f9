// The way of answers from the sampler to the trainer: what the log costs, what its readers hold,
// and that what they read is what was sampled.
#include <fmt/format.h>
#include <malloc.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>

#include "post/grpo_loss.h"
#include "rollout_testing.h"

namespace {
std::atomic<int64_t> num_syncs = 0;
}

// Counted here, in the C library's place.
extern "C" int fdatasync(int fd) {
  ++num_syncs;
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}
extern "C" int fsync(int fd) {
  ++num_syncs;
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

namespace cachalot::post {
namespace {

using testing::Policy;
using testing::small_plan;

class DataPathTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  formats::TemporaryDirectory directory_{"data-path"};
};

// W5: the log is written token by token and nothing waits for the disk, but where that is asked
// for; what it has cost is told.
TEST_F(DataPathTest, NothingIsSyncedWhileAnswersAreSampled) {
  Policy policy(train::TrainingPrecision::fp32());
  auto engine = policy.engine();
  const RolloutPlan plan = small_plan(2, 4, 24);
  RolloutLog log = RolloutLog::open(path("log"), log_head(plan, policy.config())).value();
  Rollouts rollouts(*engine, plan, log, {.max_sequences = 6});
  num_syncs = 0;
  ASSERT_TRUE(rollouts.run().value());
  EXPECT_EQ(num_syncs, 0);
  std::ifstream file(path("log"), std::ios::ate);
  EXPECT_EQ(log.appended_bytes(), file.tellg());
  EXPECT_GT(log.append_seconds(), 0);
  std::printf("%.0f bytes and %.1f us a token\n",
              static_cast<double>(log.appended_bytes()) /
                  static_cast<double>(rollouts.counts().sampled_tokens),
              1e6 * log.append_seconds() / static_cast<double>(rollouts.counts().sampled_tokens));
  ASSERT_TRUE(log.sync().ok());
  EXPECT_EQ(num_syncs, 1);
}

// Heap in use by this process, in bytes.
int64_t heap_bytes() {
  const struct mallinfo2 info = ::mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}
// Of the process: its share of memory that it shares, and what is its own.
int64_t own_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("Pss:")) return std::stoll(line.substr(4)) * 1024;
  }
  return 0;
}

// ML2: four readers of a log whose heavy fields are large, an answer each at a time. None holds
// more than the answer at hand, beside the file's pages, of which the machine has one copy; when an
// answer has been read, its bytes are free.
TEST_F(DataPathTest, ReadersOfANodeShareTheFileAndHoldOneAnswerEach) {
  constexpr int64_t kAnswers = 16, kTokens = 2000, kReaders = 4, kAllowed = 500;
  const formats::ModelConfig config = testing::policy_config(1024);
  RolloutPlan plan;
  plan.group_size = kAnswers;
  plan.groups.push_back({{2, 3, 4}, kTokens});
  const RolloutLogHead head = log_head(plan, config);
  {
    RolloutLog log = RolloutLog::open(path("log"), head).value();
    ASSERT_TRUE(log.add_prompt(0, std::vector<uint16_t>(2 * head.choices_per_row)).ok());
    std::vector<int32_t> allowed;
    for (int32_t i = 0; i < kAllowed; ++i) allowed.push_back(2 * i);
    for (int64_t number = 0; number < kAnswers; ++number) {
      for (int64_t i = 0; i < kTokens; ++i) {
        ASSERT_TRUE(log.add_token(number, {.id = 8,
                                           .logprob = -1,
                                           .allowed = allowed,
                                           .experts = std::vector<uint16_t>(head.choices_per_row)})
                        .ok());
      }
      ASSERT_TRUE(log.finish(number, AnswerEnd::length).ok());
    }
  }
  std::ifstream file(path("log"), std::ios::ate);
  const int64_t size = file.tellg();
  ASSERT_GT(size, kAnswers * kTokens * kAllowed);
  std::vector<pid_t> readers;
  for (int64_t r = 0; r < kReaders; ++r) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child > 0) {
      readers.push_back(child);
      continue;
    }
    // No expectations here: the exit status says which promise broke.
    const int64_t before_open = own_bytes();
    const RolloutLog log = RolloutLog::open(path("log"), head).value();
    const int64_t open = heap_bytes();
    // Light fields alone.
    if (own_bytes() - before_open > size / 4) ::_exit(2);
    for (int64_t number = r; number < kAnswers; number += kReaders) {
      {
        const HeavyFields heavy = log.heavy(number).value();
        if (static_cast<int64_t>(heavy.allowed.size()) != kTokens) ::_exit(3);
        const int64_t held = heap_bytes() - open;
        // Its sets in memory, and what lists take beside them.
        if (held < kTokens * kAllowed * 4 || held > kTokens * (kAllowed * 4 + 200)) ::_exit(4);
      }
      if (heap_bytes() - open > 4096) ::_exit(5);
    }
    ::_exit(own_bytes() - before_open > size / 2 ? 6 : 0);
  }
  for (const pid_t reader : readers) {
    int status = 0;
    ASSERT_EQ(::waitpid(reader, &status, 0), reader);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
}

// What a loader holds that knows of no log: everything of every answer, as it was sampled.
struct Naive {
  std::vector<std::vector<int32_t>> tokens, labels;
  std::vector<train::Sample> samples;
  std::vector<int64_t> offsets = {0};
  std::vector<double> sampler;
  std::vector<uint8_t> allowed;
  int64_t stride;
  model::Choices choices;

  Naive(const RolloutPlan& plan, const RolloutLog& log, const formats::ModelConfig& config)
      : stride((config.vocab_size + 7) / 8) {
    const std::vector<int64_t> layers = routed_layers(config);
    const auto width = static_cast<size_t>(config.num_experts_per_tok);
    choices.experts.resize(static_cast<size_t>(config.num_all_layers()));
    for (int64_t number = 0; number < plan.num_answers(); ++number) {
      const RolloutAnswer& answer = log.answers()[number];
      const HeavyFields heavy = log.heavy(number).value();
      std::vector<int32_t> all = plan.group_of(number).prompt;
      const size_t prompt = all.size();
      all.insert(all.end(), answer.ids.begin(), answer.ids.end());
      tokens.emplace_back(all.begin(), all.end() - 1);
      labels.emplace_back(tokens.back().size(), -1);
      for (size_t t = prompt; t < all.size(); ++t) {
        labels.back()[t - 1] = all[t];
        sampler.push_back(answer.logprobs[t - prompt]);
        const std::vector<int32_t>& set = heavy.allowed[t - prompt];
        for (int64_t byte = 0; byte < stride; ++byte) {
          uint8_t bits = 0;
          for (int bit = 0; bit < 8; ++bit) {
            const auto id = static_cast<int32_t>(8 * byte + bit);
            if (set.empty() || std::ranges::find(set, id) != set.end())
              bits = static_cast<uint8_t>(bits | 1 << bit);
          }
          allowed.push_back(bits);
        }
      }
      offsets.push_back(std::ssize(sampler));
      std::vector<uint16_t> experts = heavy.prompt_experts;
      experts.insert(experts.end(), heavy.experts.begin(), heavy.experts.end());
      for (size_t at = 0; at < experts.size(); at += layers.size() * width) {
        for (size_t layer = 0; layer < layers.size(); ++layer) {
          for (size_t k = 0; k < width; ++k)
            choices.experts[layers[layer]].push_back(experts[at + layer * width + k]);
        }
      }
    }
    for (size_t n = 0; n < tokens.size(); ++n) samples.push_back({tokens[n], labels[n]});
  }
};

// ML4: an update from answers read one by one as they are needed, and one from all of them at once
// by a loader of the test's own, leave the same weights.
TEST_F(DataPathTest, AnUpdateIsThatOfTheNaiveLoader) {
  Policy lazy(train::TrainingPrecision::bf16()), naive(train::TrainingPrecision::bf16());
  const RolloutPlan plan = small_plan(3, 3, 20);
  RolloutLog log = RolloutLog::open(path("log"), log_head(plan, lazy.config())).value();
  auto engine = lazy.engine();
  ASSERT_TRUE(Rollouts(*engine, plan, log, {.max_sequences = 6}).run().value());
  std::vector<double> advantages;
  for (int64_t i = 0; i < plan.num_answers(); ++i)
    advantages.push_back(0.5 - 0.25 * static_cast<double>(i % 5));
  const Naive all(plan, log, naive.config());
  const MiniBatch whole{plan.num_answers(), std::ssize(all.sampler)};
  GrpoOptions options;
  options.beta = 0;
  GrpoLoss loss({all.offsets, advantages, all.sampler, all.sampler}, whole, options,
                {all.allowed.data(), all.stride});
  const train::Update update{0.01, {{all.samples, &loss, &all.choices}}};
  ASSERT_TRUE(naive.trainer().update(update).has_value());
  // One answer a call.
  std::vector<std::unique_ptr<PolicyBatch>> batches;
  std::vector<std::unique_ptr<GrpoLoss>> losses;
  train::Update pieces{0.01, {}};
  for (int64_t number = 0; number < plan.num_answers(); ++number) {
    const PolicyBatch& batch = *batches.emplace_back(
        PolicyBatch::create(plan, log, std::span(&number, 1), lazy.config()).value());
    losses.push_back(std::make_unique<GrpoLoss>(
        GrpoRows{batch.offsets(), std::span(advantages).subspan(number, 1), batch.sampler(),
                 batch.sampler()},
        whole, options, batch.allowed()));
    pieces.micro_batches.push_back({batch.samples(), losses.back().get(), &batch.choices()});
  }
  ASSERT_TRUE(lazy.trainer().update(pieces).has_value());
  std::vector<double> ratios, objectives;
  for (const auto& piece : losses) {
    const GrpoValues& values = piece->values();
    ratios.insert(ratios.end(), values.ratio.begin(), values.ratio.end());
    objectives.insert(objectives.end(), values.objective.begin(), values.objective.end());
  }
  EXPECT_EQ(ratios, loss.values().ratio);
  EXPECT_EQ(objectives, loss.values().objective);
  Policy before(train::TrainingPrecision::bf16());
  EXPECT_NE(naive.trainer().parameters().parameters()[0].master,
            before.trainer().parameters().parameters()[0].master);
  for (const train::Parameter& parameter : naive.trainer().parameters().parameters()) {
    EXPECT_EQ(parameter.master, lazy.trainer().parameters().find(parameter.info.name)->master)
        << parameter.info.name;
  }
}

}  // namespace
}  // namespace cachalot::post
