// The policy as its own judge: a tiny model learns both roles in the same steps.
// Task    to a number the answer is a letter; good ones are "a", others "b", whatever follows it.
// Start   supervised: answers half of each; verdicts that read the letter, then so many wrong ones
//         shown that it doubts what it reads. How far it has come is measured, not how many steps
//         it took, so that every seed starts with the same kind of model.
// Chances are read off logits, not sampled.
// Cut     at 95 % of the mass, with the sampling mask kept: the policy has the choice of "a" and
//         "b", and of no text that its judge has never seen and could come to like.
#include <cmath>

#include "formats/weight_source.h"
#include "post/judges.h"
#include "post/label_loss_testing.h"
#include "rl_run_testing.h"
#include "text/chat_literals.h"
#include "train/initialize.h"

namespace cachalot::post {
namespace {

using testing::mean;
using testing::Recorder;

const Rubric kRubric{{{"It is a."}}};
constexpr char kVerdict[] = "{\"scores\": [";
const std::vector<std::string> kShown = {"", " good", "!", "   "};  // what follows the letter
constexpr int kTasks = 5;  // that training sees; as many again are held out

// Mean chances of the score 1, over tasks.
struct Scores {
  double good = 0, bad = 0;
  double accuracy() const { return (good + 1 - bad) / 2; }
};

class JudgeLawsTest : public testing::RlRunTest {
 protected:
  void SetUp() override {
    RlRunTest::SetUp();
    text::BpeTrainer words;  // short prompts make short runs
    for (int i = 0; i < 2; ++i) words.add(judge_prompt(kRubric, "", ""));
    const std::string json = text::tokenizer_json(words.train(4096, 2).value());
    ASSERT_TRUE(write_file_atomically(path("tokenizer.json"), json).ok());
    tokenizer_.emplace(text::Tokenizer::from_json(json, "tokenizer.json").value());
    std::string rubrics, annotated;
    for (int task = 0; task < kTasks; ++task) {
      rubrics +=
          fmt::format(R"({{"prompt": "{}", "check": {{"kind": "rubric", "items": ["{}"], )"
                      R"("audit": {{"kind": "rules", "rules": [{{"starts_with": "a"}}]}}}}}})"
                      "\n",
                      task, kRubric.items[0].text);
      for (const std::string& rest : kShown) {
        for (const bool is_good : {true, false}) {
          annotated +=
              fmt::format(R"({{"judge": {{"task": "{}", "answer": "{}{}", "items": ["{}"]}}, )"
                          R"("check": {{"kind": "verdict", "scores": [{}]}}}})"
                          "\n",
                          task, is_good ? "a" : "b", rest, kRubric.items[0].text, is_good ? 1 : 0);
        }
      }
    }
    ASSERT_TRUE(write_file_atomically(path("rubrics.jsonl"), rubrics).ok());
    ASSERT_TRUE(write_file_atomically(path("annotated.jsonl"), annotated).ok());
  }

  std::vector<int32_t> prompt_of(const std::string& prompt) const {
    const EpisodeFormat format{&*tokenizer_};
    RlTask task;
    task.request.messages.emplace_back().content = prompt;
    return Episode::create(format, std::move(task), "none").value().prompt();
  }
  int32_t id_of(const std::string& text) const { return *tokenizer_->token_id(text); }

  Scores scores(train::TrainingModel& model, const std::string& rest) {
    Scores sum;
    for (int task = kTasks; task < 2 * kTasks; ++task) {
      for (const bool is_good : {true, false}) {
        std::vector<int32_t> tokens =
            prompt_of(judge_prompt(kRubric, std::to_string(task), (is_good ? "a" : "b") + rest));
        for (const int32_t id : tokenizer_->encode(kVerdict)) tokens.push_back(id);
        const std::vector<float> logits = model.last_logits(ctx_, tokens, false);
        const double odds = std::exp(logits[id_of("0")] - logits[id_of("1")]);
        (is_good ? sum.good : sum.bad) += 1 / (1 + odds) / kTasks;
      }
    }
    return sum;
  }
  // The chance that a model's answer is good, over the tasks that training sees.
  double goodness(train::TrainingModel& model) {
    double sum = 0;
    for (int task = 0; task < kTasks; ++task) {
      const std::vector<float> logits =
          model.last_logits(ctx_, prompt_of(std::to_string(task)), false);
      double all = 0;
      for (const float logit : logits) all += std::exp(logit - logits[id_of("a")]);
      sum += 1 / all / kTasks;
    }
    return sum;
  }

  // One supervised step; so many of the verdicts are wrong.
  void show(train::Trainer& trainer, double learning_rate, double share_wrong) {
    std::vector<std::vector<int32_t>> tokens, labels;
    const auto add = [&](const std::string& asked, const std::string& said) {
      std::vector<int32_t>& all = tokens.emplace_back(prompt_of(asked));
      const size_t first = all.size();
      for (const int32_t id : tokenizer_->encode(said)) all.push_back(id);
      labels.emplace_back(all.size(), -1);
      for (size_t t = first; t <= all.size(); ++t)
        labels.back()[t - 1] = t < all.size() ? all[t] : id_of(std::string(text::kEos));
    };
    RngStream rng(kSeed, RngPurpose::data, static_cast<uint64_t>(trainer.position().step));
    for (int i = 0; i < 4; ++i) {
      add(std::to_string(rng.next_u32() % kTasks), i % 2 == 0 ? "a" : "b");
      for (const bool is_good : {true, false}) {
        const std::string task = std::to_string(rng.next_u32() % kTasks);
        const bool is_right = rng.next_unit() >= share_wrong;
        add(judge_prompt(kRubric, task,
                         (is_good ? "a" : "b") + kShown[rng.next_u32() % kShown.size()]),
            fmt::format("{}{}]}}", kVerdict, is_good == is_right ? 1 : 0));
      }
    }
    testing::learn(trainer, tokens, labels, learning_rate);
  }

  struct Start {
    Scores scores;
    double goodness;
  };
  // path("start"), a model's directory; how it judges and answers.
  Start make_start() {
    const std::vector<std::string> files = {test_data("post/tiny.toml")};
    const RlConfig config = read_rl_config(files, assignments("rl", "start", own_keys())).value();
    const formats::ModelConfig model = train::model_config(config.run.train).value();
    train::TrainerConfig options;
    options.balance_alpha = options.bias_update_rate = options.indexer_loss = 0;
    options.optimizer = config.run.train.optimizer;
    options.optimizer.grouping = train::grouping_of(config.run.train, model);
    const auto trainer =
        train::Trainer::create(ctx_, model, train::initial_parameters(model, {0.05, 0.01, kSeed}),
                               std::nullopt, options)
            .value();
    Scores found;
    for (int i = 0; i < 1500 && found.accuracy() < 0.97; ++i) {
      show(*trainer, 0.002, 0);
      if (i % 10 == 9) found = scores(trainer->model(), "");
    }
    EXPECT_GE(found.accuracy(), 0.97);
    for (int i = 0; i < 500 && found.accuracy() > 0.75; ++i) {
      show(*trainer, 0.0003, 0.35);
      found = scores(trainer->model(), "");
    }
    const std::string json = read_text_file(path("tokenizer.json")).value();
    EXPECT_TRUE(train::save_checkpoint(path("start"),
                                       {model, trainer->parameters(), {}, {}, "", json, 0, ""})
                    .ok());
    return {found, goodness(trainer->model())};
  }

  std::vector<std::string> own_keys() const {
    return {fmt::format("model.vocab_size={}", tokenizer_->vocab_size()),
            "model.sliding_window=128", "model.max_position_embeddings=1024"};
  }
  std::vector<std::string> joint_keys() const {
    std::string tasks;
    for (const char* name : {"rubrics", "annotated"})
      tasks += fmt::format("{{path='{0}/{1}.jsonl',name='{1}'}},", directory_.path(), name);
    std::vector<std::string> all = own_keys();
    all.insert(all.end(),
               {"model.preset=''",
                "model.init_from='" + train::checkpoint_directory(path("start"), 0) + "'",
                fmt::format("seed={}", kSeed), "rl.tasks=[" + tasks + "]", "rl.prompt_format=chat",
                "rl.end_texts=[]", "rl.max_new_tokens=24", "rl.judge_max_new_tokens=24",
                "rl.mini_batches=1", "rl.max_sequences=24", "rl.num_drafts=0", "rl.top_p=0.95",
                "rl.beta=0", "rl.steps=30", "rl.prompts_per_step=8", "rl.group_size=12",
                "schedule.learning_rate.peak=0.0005", "schedule.micro_batch_tokens=4096"});
    return all;
  }

  static constexpr uint64_t kSeed = 17;
  ThreadPool pool_{1};
  device::Arena arena_;
  device::ExecContext ctx_{&pool_, &arena_, device::machine_isa()};
  std::optional<text::Tokenizer> tokenizer_;
};

// J2: a judge that doubts learns from what people have scored, and is right more often about tasks
// that no training has seen, whatever follows an answer. J3: praise of itself buys a bad answer
// nothing. J4: in the same steps its answers, whose reward is its own judgement, get better by a
// checker that no part of the training reads.
TEST_F(JudgeLawsTest, JointTrainingMakesABetterJudgeAndBetterAnswers) {
  const auto [before, goodness_before] = make_start();
  const Recorder joint = run_whole("joint", joint_keys());
  const std::string last =
      train::checkpoint_directory(path("joint"), train::list_checkpoints(path("joint")).back());
  const formats::WeightSource source = formats::WeightSource::open(last).value();
  train::ParameterStore parameters = train::ParameterStore::from_checkpoint(source).value();
  const auto model = train::TrainingModel::create(ctx_, source.config(), parameters,
                                                  train::TrainingPrecision::fp32())
                         .value();
  const Scores after = scores(*model, ""), padded = scores(*model, "\n  "),
               praised = scores(*model, " best");
  const double goodness_after = goodness(*model);
  const std::vector<double> audit = joint.values("judge/audit"),
                            score = joint.values("judge/score");
  std::printf(
      "verdicts right %.3f, then %.3f; scores of good and bad answers %.3f, %.3f, padded %.3f, "
      "%.3f, praised %.3f, %.3f\ngood answers %.3f, then %.3f; audit %.3f, then %.3f; score %.3f, "
      "then %.3f\n",
      before.accuracy(), after.accuracy(), after.good, after.bad, padded.good, padded.bad,
      praised.good, praised.bad, goodness_before, goodness_after, audit[0], mean(audit, 27, 3),
      score[0], mean(score, 27, 3));
  EXPECT_GT(after.accuracy(), before.accuracy() + 0.1);
  EXPECT_NEAR(padded.good, after.good, 0.1);
  EXPECT_NEAR(padded.bad, after.bad, 0.1);
  EXPECT_LT(praised.bad, after.bad + 0.1);
  EXPECT_GT(goodness_after, goodness_before + 0.15);
  EXPECT_GT(mean(audit, 27, 3), audit[0] + 0.15);
  EXPECT_GT(mean(score, 27, 3), 0.9);
}

}  // namespace
}  // namespace cachalot::post
