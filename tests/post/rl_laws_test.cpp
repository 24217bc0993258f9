// What reinforcement learning does to a tiny model over some dozens of steps.

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
  // What is said before an answer ends is reasoning, some ten tokens of it by chance. The reference
  // holds it there; a penalty pulls it down.
  std::vector<std::string> thinking(const std::string& tasks, int64_t steps) const {
    std::string ends;
    for (const char end : std::string("0123456789qxzQXZJKVWYG~^|@"))
      ends += fmt::format("'{}',", end);
    return {"rl.tasks=[" + tasks + "]",
            fmt::format("rl.steps={}", steps),
            "rl.end_texts=[" + ends + "]",
            "rl.mini_batches=1",
            "rl.prompts_per_step=6",
            "rl.group_size=12",
            "rl.max_sequences=24",
            "rl.prompt_format=chat",
            "rl.penalty_tokens=10",
            "rl.penalty_most=100",
            "rl.beta=0.2",
            "rl.top_p=1",
            "rl.reference_every_steps=0",
            "schedule.learning_rate.peak=0.002",
            "model.max_position_embeddings=1024"};
  }
};

// E4.
TEST_F(RlLawsTest, AHigherPenaltyShortensWhatIsSaid) {
  double before = 1e9;
  for (const double penalty : {0.0, 0.5, 2.0}) {
    const std::string task =
        fmt::format("{{path='{}', effort='high', max_new_tokens=48, length_penalty={}}}",
                    path("tasks.jsonl"), penalty);
    const Recorder recorder = run_whole(fmt::format("penalty-{}", penalty), thinking(task, 30));
    const double length = last(recorder, "length/reasoning");
    std::printf("penalty %.1f: %.2f tokens of reasoning at first, %.2f at last, %.3f right\n",
                penalty, mean(recorder.values("length/reasoning"), 0, 3), length,
                last(recorder, "reward/correct"));
    EXPECT_LT(length, 0.8 * before) << penalty;
    before = length;
  }
}

// E1: one set of weights, asked in three ways that cost differently.
TEST_F(RlLawsTest, ModesDifferByWhatTheyCost) {
  const auto task = [&](const char* effort, int64_t window, double penalty) {
    return fmt::format(
        "{{path='{}', name='{}', effort='{}', max_new_tokens={}, "
        "length_penalty={}}}",
        path("tasks.jsonl"), effort, effort, window, penalty);
  };
  const Recorder recorder = run_whole(
      "modes",
      thinking(task("none", 8, 0) + "," + task("high", 24, 2) + "," + task("max", 48, 0.1), 36));
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

}  // namespace
}  // namespace cachalot::post
