// What reinforcement learning does to a tiny model over some dozens of steps: penalties shorten,
// modes differ by what they cost, and each part of the objective that the ablations leave out is
// one that holds it together where the sampler's weights are old.
#include <algorithm>

#include "rl_run_testing.h"

namespace cachalot::post {
namespace {

using testing::mean;
using testing::Recorder;
using testing::RlRunTest;

class RlLawsTest : public RlRunTest {
 protected:
  static double last(const Recorder& recorder, std::string_view name, size_t count = 6) {
    const std::vector<double> values = recorder.values(name);
    return mean(values, values.size() - count, count);
  }
  // Answers end at a digit, and what is said before it is reasoning.
  std::vector<std::string> thinking(const std::string& tasks, int64_t steps) const {
    return {"rl.tasks=[" + tasks + "]",
            fmt::format("rl.steps={}", steps),
            "rl.mini_batches=1",
            "rl.prompts_per_step=6",
            "rl.group_size=12",
            "rl.max_sequences=24",
            "rl.prompt_format=chat",
            "rl.penalty_tokens=10",
            "rl.penalty_most=100",
            "rl.beta=0",
            "model.max_position_embeddings=1024"};
  }
};

// E4.
TEST_F(RlLawsTest, AHigherPenaltyShortensWhatIsSaid) {
  double before = 1e9;
  for (const double penalty : {0.0, 0.3, 3.0}) {
    const std::string task =
        fmt::format("{{path='{}', effort='high', max_new_tokens=24, length_penalty={}}}",
                    path("tasks.jsonl"), penalty);
    const Recorder recorder = run_whole(fmt::format("penalty-{}", penalty), thinking(task, 30));
    const double length = last(recorder, "length/reasoning");
    std::printf("penalty %.1f: %.2f tokens of reasoning at first, %.2f at last, %.3f right\n",
                penalty, mean(recorder.values("length/reasoning"), 0, 3), length,
                last(recorder, "reward/correct"));
    EXPECT_LT(length, 0.9 * before) << penalty;
    before = length;
  }
}

// E1: one set of weights, asked in three ways that cost differently.
TEST_F(RlLawsTest, ModesDifferByWhatTheyCost) {
  const auto task = [&](const char* effort, int64_t window, double penalty) {
    return fmt::format(
        "{{path='{}', name='{}', effort='{}', max_new_tokens={}, length_penalty={}}}",
        path("tasks.jsonl"), effort, effort, window, penalty);
  };
  const Recorder recorder = run_whole(
      "modes",
      thinking(task("none", 6, 0) + "," + task("high", 12, 3) + "," + task("max", 24, 0), 36));
  const double none = last(recorder, "task/0.none/reasoning");
  const double high = last(recorder, "task/1.high/reasoning");
  const double max = last(recorder, "task/2.max/reasoning");
  const double right[] = {last(recorder, "task/0.none/correct"),
                          last(recorder, "task/1.high/correct"),
                          last(recorder, "task/2.max/correct")};
  std::printf("reasoning %.2f, %.2f, %.2f; right %.3f, %.3f, %.3f\n", none, high, max, right[0],
              right[1], right[2]);
  EXPECT_EQ(none, 0);
  EXPECT_GT(high, 0);
  EXPECT_GT(max, 1.2 * high);
  EXPECT_GE(right[1], right[0] - 0.05);
  EXPECT_GE(right[2], right[1] - 0.05);
}

// G6: weights that are up to seven steps old.
TEST_F(RlLawsTest, EveryPartThatIsLeftOutCostsStability) {
  struct Variant {
    const char* name;
    std::vector<std::string> more;
  };
  const std::vector<Variant> variants = {
      {"whole", {}},
      {"no sequence mask", {"rl.delta=1e9"}},
      {"biased KL", {"rl.kl=plain"}},
      {"no kept routing", {"rl.keep_routing=false"}},
      {"no kept sampling mask", {"rl.keep_sampling_mask=false"}},
  };
  for (const Variant& variant : variants) {
    for (const int seed : {5, 6}) {
      std::vector<std::string> all = {fmt::format("seed={}", seed),
                                      "rl.steps=40",
                                      "rl.mini_batches=2",
                                      "rl.prompts_per_step=4",
                                      "rl.group_size=8",
                                      "rl.max_sequences=24",
                                      "rl.weights_every_steps=8",
                                      "checkpoint.every_steps=8",
                                      "rl.delta=0.05",
                                      "rl.beta=0.1",
                                      "rl.max_new_tokens=6",
                                      "rl.top_p=0.8"};
      all.insert(all.end(), variant.more.begin(), variant.more.end());
      const Recorder r = run_whole(fmt::format("{}-{}", variant.name, seed), all);
      const auto most = [&](const char* name) { return std::ranges::max(r.values(name)); };
      std::printf(
          "%-22s seed %d: reward %.3f .. %.3f, grad norm %.3f (most %.3f), kl %.4f (most %.4f), "
          "ratio %.4f, divergence %.4f (most %.4f), masked %.3f, entropy %.3f\n",
          variant.name, seed, mean(r.values("reward/mean"), 0, 4), last(r, "reward/mean"),
          mean(r.values("policy/grad_norm"), 0, 40), most("policy/grad_norm"),
          mean(r.values("policy/kl"), 0, 40), most("policy/kl"),
          mean(r.values("policy/ratio"), 0, 40), mean(r.values("policy/divergence"), 0, 40),
          most("policy/divergence"), mean(r.values("policy/masked"), 0, 40),
          last(r, "policy/entropy"));
    }
  }
}

}  // namespace
}  // namespace cachalot::post
