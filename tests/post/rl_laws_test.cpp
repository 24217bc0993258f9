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

}  // namespace
}  // namespace cachalot::post
