// From a folder of texts to a model that the other verbs open.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "apps/binary.h"
#include "base/file.h"
#include "base/test_data.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

// nano, made small.
const std::vector<std::string> kSmall = {
    "--model.hidden_size=64",
    "--model.num_hidden_layers=2",
    "--model.num_hash_layers=1",
    "--model.compress_ratios=[0, 4, 0]",
    "--model.num_attention_heads=4",
    "--model.head_dim=32",
    "--model.qk_rope_head_dim=16",
    "--model.q_lora_rank=32",
    "--model.o_lora_rank=32",
    "--model.n_routed_experts=4",
    "--model.moe_intermediate_size=32",
    "--schedule.sequence=[{from_tokens=0, sequence_length=64}]",
    "--schedule.batch.batch_tokens=128",
    "--schedule.batch.total_tokens=1280",
    "--evaluate.max_tokens=128"};

std::string texts() {
  const std::string folder = scratch_path("letters");
  fs::create_directories(folder + "/deep");
  for (int i = 0; i < 12; ++i) {
    std::string text;
    for (int line = 0; line < 60; ++line)
      text += "On day " + std::to_string(i * line) + " the whale dived, and we wrote it down.\n";
    EXPECT_TRUE(
        write_file_atomically(folder + (i % 2 ? "/deep/" : "/") + std::to_string(i) + ".txt", text)
            .ok());
  }
  return folder;
}

Outcome train(std::vector<std::string> arguments, const std::vector<std::string>& more = {}) {
  arguments.insert(arguments.begin(), "train");
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_binary(arguments);
}

// Of the newest checkpoint.
json::object chat_defaults_of(const std::string& run) {
  std::vector<fs::path> checkpoints;
  for (const auto& entry : fs::directory_iterator(run + "/checkpoints"))
    checkpoints.push_back(entry.path());
  const std::string path =
      *std::max_element(checkpoints.begin(), checkpoints.end()) / "generation_config.json";
  return parse_json(read_text_file(path).value(), path).value().get_object();
}

TEST(TrainTexts, AFolderBecomesAModelThatOpens) {
  const std::string run = scratch_path("letters-run");
  const Outcome outcome =
      train({"--preset", "nano", "--data", texts(), "--run_dir=" + run}, kSmall);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* told :
       {"12 files", "held out", "note: the run has 10 steps", "sample: ", "trained    10 steps",
        "budget     1,280 tokens, ", " passes over the data, about ", "in the mean of its last 10",
        "validation/heldout/bits_per_byte", "step-0000000010", "report.html", " chat "}) {
    EXPECT_NE(outcome.out.find(told), std::string::npos) << told << "\n" << outcome.out;
  }
  const std::string page = read_text_file(run + "/report.html").value();
  const size_t samples = page.find("<h2>Samples</h2>");
  ASSERT_NE(samples, std::string::npos);
  EXPECT_NE(page.find("On day", samples), std::string::npos);
  EXPECT_EQ(page.find("<h2>Events</h2>"), std::string::npos);  // they are no events, nor marks
  // The run's directory is the model.
  const Outcome generated =
      run_binary({"generate", run, "--prompt", "On day", "--max-tokens", "3", "--json"});
  EXPECT_EQ(generated.exit_code, 0) << generated.err;
  // Its answers stay within half a sequence as trained, without thinking, and it says what it is.
  const Outcome chat = run_binary({"chat", run, "--logit-bias", "1=-inf"}, "Hello\n/stats\n");
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_NE(chat.err.find("trained on plain text: it continues a text, it does not answer"),
            std::string::npos)
      << chat.err;
  for (const char* told : {"effort     none", "temperature 0.7,"})
    EXPECT_NE(chat.out.find(told), std::string::npos) << told << "\n" << chat.out;
  EXPECT_EQ(chat_defaults_of(run).at("max_new_tokens"), 32);
  EXPECT_NE(chat.err.find("[cut off after 32 tokens]"), std::string::npos) << chat.err;
  EXPECT_LT(outcome.out.find(" generate " + run + " --prompt"), outcome.out.find(" chat " + run));
  EXPECT_EQ(run_binary({"tokenize", run, "--text", "whale"}).exit_code, 0);
  EXPECT_EQ(run_binary({"inspect", run}).exit_code, 0);
  const std::string quantized = scratch_path("letters-f32");
  EXPECT_EQ(run_binary({"convert", run, quantized, "--dtype", "bf16"}).exit_code, 0);
}

TEST(TrainTexts, StopsAndGoesOnFromItsOwnConfiguration) {
  const std::string run = scratch_path("stopped-run");
  std::vector<std::string> arguments = {"--preset",         "nano",           "--data", texts(),
                                        "--run_dir=" + run, "--stop-at-step", "4"};
  const Outcome stopped = train(arguments, kSmall);
  ASSERT_EQ(stopped.exit_code, 0) << stopped.err;
  EXPECT_NE(stopped.out.find("stopped    4 steps"), std::string::npos) << stopped.out;
  EXPECT_NE(stopped.out.find(" train " + run + "/run.toml --resume"), std::string::npos);
  const Outcome again = train(arguments, kSmall);
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_NE(again.err.find("--resume"), std::string::npos) << again.err;
  const Outcome resumed = train({run + "/run.toml", "--resume"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.out.find("trained    10 steps"), std::string::npos) << resumed.out;
  // Losses are the run's, not this start's: its first step is that of the first start.
  const auto loss_line = [](const std::string& out) {
    const size_t at = out.find("\nloss ");
    return at == std::string::npos ? "none in " + out
                                   : out.substr(at, out.find(" at the", at) - at);
  };
  EXPECT_EQ(loss_line(resumed.out), loss_line(stopped.out));
  EXPECT_NE(resumed.out.find(" at the first evaluation)"), std::string::npos) << resumed.out;
  EXPECT_EQ(resumed.out.find("changed configuration"), std::string::npos) << resumed.out;
  EXPECT_EQ(chat_defaults_of(run).at("cachalot").at("plain_text"), true);
}

// With the texts named again, what is not given is the run's: model, budget and all.
TEST(TrainTexts, GoesOnWithTheRunsConfigurationBeneathWhatIsGiven) {
  const std::string run = scratch_path("again-run"), folder = texts();
  ASSERT_EQ(train({"--data", folder, "--run_dir=" + run, "--stop-at-step", "4"}, kSmall).exit_code,
            0);
  const std::vector<std::string> again = {"--data", folder, "--run_dir=" + run, "--resume"};
  const Outcome resumed = train(again, {"--stop-at-step", "6"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.out.find("stopped    6 steps, 768 of 1,280 tokens"), std::string::npos)
      << resumed.out;
  EXPECT_EQ(resumed.out.find("changed configuration"), std::string::npos) << resumed.out;
  const Outcome longer = train(again, {"--tokens", "1536"});
  ASSERT_EQ(longer.exit_code, 0) << longer.err;
  EXPECT_NE(longer.out.find("trained    12 steps"), std::string::npos) << longer.out;
  EXPECT_NE(longer.out.find("changed configuration: schedule.batch.total_tokens: 1280 -> 1536"),
            std::string::npos)
      << longer.out;
}

// The file has its size and its first tokens, and other text behind them.
TEST(Train, AResumptionWithChangedDataIsRefused) {
  const std::string data = scratch_path("changed.bin"), run = scratch_path("changed-run");
  std::string text;  // tokens of two bytes
  for (int i = 0; i < 60000; ++i) {
    const int token = i * 31 % 2048;
    text += {static_cast<char>(token % 256), static_cast<char>(token / 256)};
  }
  ASSERT_TRUE(write_file_atomically(data, text).ok());
  const auto resume = [&](const char* stop) {
    return train({test_data("train/small.toml"), "--resume", "--stop-at-step", stop,
                  "--model.vocab_size=2048", "--run_dir=" + run, "--data.0.path=" + data});
  };
  ASSERT_EQ(resume("2").exit_code, 0);
  std::string changed = text;
  std::swap(changed[changed.size() - 2], changed[changed.size() - 4]);
  ASSERT_NE(changed, text);
  ASSERT_TRUE(write_file_atomically(data, changed).ok());
  const Outcome refused = resume("3");
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("other content of dataset \"bytes\""), std::string::npos)
      << refused.err;
  ASSERT_TRUE(write_file_atomically(data, text).ok());
  const Outcome resumed = resume("3");
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
}

TEST(Train, TellsAllThatIsWrongAtOnce) {
  const Outcome outcome = train({"--preset", "nano", "--data", texts()},
                                {"--run_dir=" + scratch_path("wrong-run"), "--losses.indexr=1",
                                 "--schedule.batch.total_tokens=-5", "--log.every_steps=none"});
  EXPECT_EQ(outcome.exit_code, 2);
  for (const char* told : {"\"indexer\"?", "schedule.batch.total_tokens", "log.every_steps"})
    EXPECT_NE(outcome.err.find(told), std::string::npos) << told << "\n" << outcome.err;
  const Outcome misspelt = train({test_data("train/small.toml"), "--resum"});
  EXPECT_NE(misspelt.err.find("\"--resume\"?"), std::string::npos) << misspelt.err;
  const Outcome nothing = train({});
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_NE(nothing.err.find("--data"), std::string::npos) << nothing.err;
}

// No text is read, and nothing is written, before all options are right.
TEST(TrainTexts, OptionsAreCheckedBeforeTheTexts) {
  const std::string folder = texts(), run = scratch_path("unread-run");
  for (const auto& [wrong, told] : std::vector<std::pair<std::string, std::string>>{
           {"--schedule.batch.total_token=100000", "\"total_tokens\"?"},
           {"--run-dir=x", "\"run_dir\"?"},
           {"--total_tokens=100000", "\"schedule.batch.total_tokens\"?"},
           {"--hidden_size=64", "\"model.hidden_size\"?"},
           {"--preset=nanoo", "expected nano, mini, flash or pro, found \"nanoo\""},
           {"--tokens=many", "as in 100k"},
           {"--tokens=0", "as in 100k"},
           {"--tokens=2Mb", "as in 100k"},
           {"--model.preset=flash", "schedule.batch.total_tokens: expected the tokens to train"}}) {
    const Outcome outcome = train({"--data", folder, "--run_dir=" + run, wrong});
    EXPECT_EQ(outcome.exit_code, 2) << wrong;
    EXPECT_EQ(outcome.out, "") << wrong;
    EXPECT_NE(outcome.err.find(told), std::string::npos) << wrong << "\n" << outcome.err;
  }
  EXPECT_FALSE(fs::exists(run));
  const Outcome preset = train({"--data", folder, "--run_dir=" + run, "--preset=nanoo"});
  EXPECT_EQ(preset.err.find("total_tokens"), std::string::npos) << preset.err;
  const Outcome help = train({"--help"});
  EXPECT_NE(help.out.find("nano, mini, flash or pro"), std::string::npos) << help.out;
}

// It leaves nothing behind, and the name of a run that is there does not stop it.
TEST(TrainTexts, ADryRunWritesNothing) {
  const std::string folder = texts(), run = scratch_path("dry-run"), temporary = run + "-tmp";
  fs::create_directories(temporary);
  const auto dry = [&](const std::string& tokens) {
    std::vector<std::string> arguments = {
        "train", "--data", folder, "--dry-run", "--run_dir=" + run, "--tokens", tokens};
    for (const std::string& one : kSmall) {
      if (!one.starts_with("--schedule.batch.total")) arguments.push_back(one);
    }
    return run_binary(arguments, "", {{"TMPDIR", temporary}});
  };
  const Outcome first = dry("1.5k");
  ASSERT_EQ(first.exit_code, 0) << first.err;
  for (const std::string& told : {std::string("total_tokens = 1500\n"), run + "/data/texts.json",
                                  run + "/data/tokenizer.json"})
    EXPECT_NE(first.out.find(told), std::string::npos) << told << "\n" << first.out;
  EXPECT_EQ(first.out.find(temporary), std::string::npos) << first.out;
  EXPECT_FALSE(fs::exists(run));
  EXPECT_TRUE(fs::is_empty(temporary));
  ASSERT_EQ(train({"--data", folder, "--run_dir=" + run, "--stop-at-step", "1"}, kSmall).exit_code,
            0);
  const auto written = fs::last_write_time(run + "/data/texts.json");
  const Outcome again = dry("2k");
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.out.find("total_tokens = 2000\n"), std::string::npos) << again.out;
  EXPECT_EQ(fs::last_write_time(run + "/data/texts.json"), written);
}

TEST(TrainTexts, TooLittleTextIsRefused) {
  const std::string file = scratch_path("little.txt");
  ASSERT_TRUE(write_file_atomically(file, "hello world\n").ok());
  const std::string runs = scratch_path("little-runs"), run = runs + "/one";
  const Outcome outcome = train({"--data", file, "--run_dir=" + run});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_FALSE(fs::exists(runs));
  EXPECT_NE(outcome.err.find("at least 4,096 tokens to train on, 4 sequences of 1024, found "),
            std::string::npos)
      << outcome.err;
  EXPECT_EQ(outcome.out.find("step "), std::string::npos) << outcome.out;
  // What stands there already is a person's own.
  fs::create_directories(run + "/data");
  ASSERT_TRUE(write_file_atomically(run + "/data/mine.txt", "mine\n").ok());
  EXPECT_EQ(train({"--data", file, "--run_dir=" + run}).exit_code, 2);
  EXPECT_TRUE(fs::exists(run + "/data/mine.txt"));
}

TEST(TrainTexts, AFolderWithoutDataIsExplained) {
  const std::string folder = texts();
  const Outcome outcome = train({"--preset", "nano", folder});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("a folder of texts? use --data " + folder), std::string::npos)
      << outcome.err;
}

// Ctrl-C is answered at once, ends with a checkpoint, and "train && quantize" does not go on.
TEST(TrainTexts, CtrlCStopsWithACheckpoint) {
  const std::string run = scratch_path("interrupted-run");
  std::vector<std::string> arguments = {"train", "--data", texts(), "--run_dir=" + run};
  arguments.insert(arguments.end(), kSmall.begin(), kSmall.end());
  for (const char* more : {"--schedule.batch.total_tokens=12800000", "--log.every_steps=1",
                           "--evaluate.every_steps=0", "--checkpoint.every_steps=100000"})
    arguments.emplace_back(more);
  const Outcome outcome = run_binary(arguments, "", {}, "", "step 2 tokens");
  EXPECT_EQ(outcome.exit_code, 130) << outcome.err;
  EXPECT_NE(outcome.out.find("\nstopping after this step ..."), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("\nstopped    "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("run.toml --resume"), std::string::npos) << outcome.out;
  EXPECT_TRUE(fs::exists(run + "/checkpoints"));
}

// A configuration whose corpus or tokenizer is another's.
TEST(Train, RefusesCorporaOfOtherTokenizers) {
  const std::string folder = texts();
  const std::string base = scratch_path("other");
  for (const char* size : {"400", "420"}) {
    const std::string tokenizer = base + size + "/tokenizer.json";
    fs::create_directories(base + size);
    ASSERT_EQ(run_binary({"data", "tokenizer", folder, "--vocab-size", size, "--out", tokenizer})
                  .exit_code,
              0);
    ASSERT_EQ(run_binary({"data", "tokenize", folder + "/*.txt", "--tokenizer", tokenizer, "--out",
                          base + size + "/made/here"})
                  .exit_code,
              0);
  }
  const std::string list400 = base + "400/made/here.json", list420 = base + "420/made/here.json";
  std::vector<std::string> common = {test_data("train/small.toml"),
                                     "--model.vocab_size=512",
                                     "--run_dir=" + scratch_path("other-run"),
                                     "--stop-at-step",
                                     "1",
                                     "--data.0.path=" + list400};
  const Outcome tokenizer = train(common, {"--tokenizer=" + base + "420/tokenizer.json"});
  EXPECT_EQ(tokenizer.exit_code, 2);
  EXPECT_NE(tokenizer.err.find("data \"bytes\": expected a corpus of the tokenizer of " + base +
                               "420/tokenizer.json"),
            std::string::npos)
      << tokenizer.err;
  const Outcome two = train(common, {"--validation=[{name=\"v\", path=\"" + list420 + "\"}]"});
  EXPECT_EQ(two.exit_code, 2);
  EXPECT_NE(two.err.find("validation \"v\""), std::string::npos) << two.err;
  EXPECT_EQ(train(common, {"--tokenizer=" + base + "400/tokenizer.json"}).exit_code, 0);
}

// A resumption of another model is refused and changes nothing; one of another learning rate is
// told by its key.
TEST(Train, AResumptionTellsWhatDiffersByKey) {
  const std::string run = scratch_path("keys-run");
  ASSERT_EQ(
      train({"--preset", "nano", "--data", texts(), "--run_dir=" + run, "--stop-at-step", "2"},
            kSmall)
          .exit_code,
      0);
  const std::string before = read_text_file(run + "/run.toml").value();
  const Outcome refused =
      train({run + "/run.toml", "--resume", "--model.moe_intermediate_size=64"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_EQ(read_text_file(run + "/run.toml").value(), before);
  const Outcome changed = train({run + "/run.toml", "--resume", "--stop-at-step", "3",
                                 "--schedule.learning_rate.peak=0.0005"});
  ASSERT_EQ(changed.exit_code, 0) << changed.err;
  EXPECT_NE(changed.out.find("changed configuration: schedule.learning_rate.peak: "),
            std::string::npos)
      << changed.out;
  EXPECT_NE(changed.out.find(" -> 0.0005\n"), std::string::npos) << changed.out;
}

}  // namespace
}  // namespace cachalot::apps
