// Configurations: overlays, assignments, strictness, and that what is printed reads back.
#include "train/train_config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <sstream>

#include "base/file.h"
#include "base/rng.h"
#include "base/test_data.h"
#include "formats/presets.h"
#include "train/preset_schedule.h"

namespace cachalot::train {
namespace {

constexpr char kBase[] = R"(
run_dir = "run"
[model]
preset = "nano"
[[data]]
name = "text"
path = "text.json"
[schedule]
sequence = [{from_tokens = 0, sequence_length = 512}]
batch = {first_batch_tokens = 4096, batch_tokens = 4096, total_tokens = 81920}
)";

Result<TrainConfig> read(const std::vector<std::string>& texts,
                         const std::vector<std::string>& assignments = {}) {
  ConfigTree tree;
  for (const std::string& text : texts) {
    CACHALOT_ASSIGN_OR_RETURN(const ConfigTree over, parse_config_tree(text, "test.toml"));
    overlay(tree, over);
  }
  for (const std::string& assignment : assignments)
    CACHALOT_RETURN_IF_ERROR(assign(tree, assignment));
  return train_config_from(tree);
}
std::string error_of(const std::vector<std::string>& texts,
                     const std::vector<std::string>& assignments = {}) {
  const Result<TrainConfig> config = read(texts, assignments);
  return config ? "" : config.error().message();
}

TEST(TrainConfig, LaterFilesAndAssignmentsWin) {
  const TrainConfig config = read({kBase, "seed = 3\n[schedule]\nbatch = {total_tokens = 40960}\n"},
                                  {"seed=4", "schedule.sequence.0.sequence_length=256",
                                   "optimizer.kind=adamw", "data.0.name=other"})
                                 .value();
  EXPECT_EQ(config.seed, 4u);
  EXPECT_EQ(config.init.seed, 4u);
  EXPECT_EQ(config.schedule.batch.total_tokens, 40960);
  EXPECT_EQ(config.schedule.batch.batch_tokens, 4096);
  EXPECT_EQ(config.schedule.sequence.at(0).sequence_length, 256);
  EXPECT_FALSE(config.optimizer.grouping.muon);
  EXPECT_EQ(config.data.at(0).name, "other");
}

TEST(TrainConfig, WhatIsPrintedReadsBack) {
  const TrainConfig config = read({kBase}, {"schedule.learning_rate.peak=0.00027",
                                            "model.hidden_size=128", "optimizer.adamw.eps=1e-20"})
                                 .value();
  const std::string printed = resolved_toml(config);
  const TrainConfig again = read({printed}).value();
  EXPECT_EQ(resolved_toml(again), printed);
  EXPECT_EQ(config_hash(again), config_hash(config));
}

TEST(TrainConfig, TheOrderOfKeysDecidesNothing) {
  const std::vector<std::string> assignments = {"model.swiglu_limit=7", "model.hidden_size=128",
                                                "model.rope_scaling.factor=8",
                                                "model.rope_scaling.beta_fast=16", "seed=3"};
  const TrainConfig one = read({kBase}, assignments).value();
  const TrainConfig other = read({kBase}, {assignments.rbegin(), assignments.rend()}).value();
  EXPECT_EQ(resolved_toml(one), resolved_toml(other));
  EXPECT_EQ(config_hash(one), config_hash(other));
  EXPECT_EQ(resolved_toml(read({resolved_toml(one)}).value()), resolved_toml(one));
}

TEST(TrainConfig, HashIsOfAllThatDecidesBits) {
  const std::string hash = config_hash(read({kBase}).value());
  EXPECT_EQ(config_hash(read({kBase}, {"run_dir=elsewhere"}).value()), hash);
  EXPECT_EQ(config_hash(read({kBase}, {"recompute.tensors=mhc"}).value()), hash);
  EXPECT_NE(config_hash(read({kBase}, {"seed=1"}).value()), hash);
}

TEST(TrainConfig, UnknownKeysNameTheClosest) {
  EXPECT_NE(error_of({kBase, "[optimizer]\nkindd = \"muon\"\n"}).find("\"kind\"?"),
            std::string::npos);
  EXPECT_NE(error_of({kBase, "[optimizer]\nkindd = \"muon\"\n"}).find("test.toml:2"),
            std::string::npos);
  EXPECT_NE(error_of({kBase}, {"schedule.batch.totl_tokens=1"}).find("total_tokens"),
            std::string::npos);
  EXPECT_NE(error_of({kBase}, {"model.hiden_size=1"}).find("hidden_size"), std::string::npos);
}

TEST(TrainConfig, WrongValuesNameKeyExpectedAndFound) {
  for (const auto& [assignment, key] : std::vector<std::pair<std::string, std::string>>{
           {"optimizer.adamw.beta1=2", "optimizer.adamw.beta1"},
           {"optimizer.kind=sgd", "optimizer.kind"},
           {"checkpoint.every_steps=0", "checkpoint.every_steps"},
           {"log.tensorboard=7", "log.tensorboard"},
           {"data=[]", "data"},
           {"schedule.batch.total_tokens=-1", "schedule.batch.total_tokens"},
           {"recompute.tensors=logits", "recompute"},
           {"init.std=nan", "init.std"}}) {
    const std::string message = error_of({kBase}, {assignment});
    EXPECT_NE(message.find(key), std::string::npos) << assignment << ": " << message;
  }
  EXPECT_NE(error_of({"run_dir = \n"}).find("test.toml:1"), std::string::npos);
  EXPECT_FALSE(error_of({kBase}, {"run_dir"}).empty());
  EXPECT_FALSE(error_of({kBase}, {"a..b=1"}).empty());
  EXPECT_FALSE(error_of({kBase}, {"data.7.name=x"}).empty());
}

// What is wrong with the model comes with the rest, all of it, each key once.
TEST(TrainConfig, EveryErrorIsTold) {
  const std::string message = error_of(
      {kBase,
       "[model]\nhidden_size = -1\nhiden_size = 2\nrope_theta = \"x\"\nrope_scaling.factor "
       "= 0\ncachalot.nothing = 1\ncompress_ratios = [7, true, \"a\"]\n"},
      {"optimizer.kind=sgd"});
  for (const char* line :
       {"--optimizer.kind=sgd: optimizer.kind: expected",
        "test.toml:2: model.hidden_size: expected", "test.toml:3: model.hiden_size: expected",
        "test.toml:4: model.rope_theta: expected",
        "test.toml:5: model.rope_scaling.factor: expected",
        "test.toml:6: model.cachalot.nothing: expected",
        "test.toml:7: model.compress_ratios: expected"}) {
    EXPECT_NE(("\n" + message).find(std::string("\n") + line), std::string::npos) << line << " in\n"
                                                                                  << message;
  }
  EXPECT_EQ(std::ranges::count(message, '\n'), 6) << message;
  // What numbers say of each other, once each is one.
  const std::string two = error_of({kBase}, {"model.o_groups=3", "model.qk_rope_head_dim=7"});
  EXPECT_NE(two.find("model.num_attention_heads: expected a multiple of"), std::string::npos);
  EXPECT_NE(two.find("model.qk_rope_head_dim: expected an even number"), std::string::npos);
  // A model that could not be read leaves nothing to say of it.
  EXPECT_EQ(std::ranges::count(error_of({kBase}, {"model=7"}), '\n'), 0);
  EXPECT_EQ(std::ranges::count(error_of({kBase}, {"model.preset=7"}), '\n'), 0);
}

// Keys that are given have their line or assignment; others that of the table around them.
TEST(TrainConfig, ErrorsBeginWithTheKeysOrigin) {
  const auto model_error = [](const std::vector<std::string>& texts,
                              const std::vector<std::string>& assignments = {}) {
    const Result<TrainConfig> config = read(texts, assignments);
    return config ? model_config(*config).error().message() : config.error().message();
  };
  const auto expect_begins = [](const std::string& message, const std::string& begin) {
    EXPECT_EQ(message.substr(0, begin.size()), begin) << message;
  };
  expect_begins(model_error({kBase, "[model]\n\nhidden_size = -1\n"}),
                "test.toml:3: model.hidden_size: expected an integer");
  expect_begins(model_error({kBase, "[model]\nhidden_size = \"wide\"\n"}),
                "test.toml:2: model.hidden_size: expected an integer");
  expect_begins(model_error({kBase, "[model]\n\nhiden_size = 1\n"}),
                "test.toml:3: model.hiden_size: expected a field of config.json");
  expect_begins(model_error({kBase, "[model]\nrope_scaling.factor = 0\n"}),
                "test.toml:2: model.rope_scaling.factor: expected a number");
  expect_begins(model_error({kBase, "[model]\n\ncompress_ratios = [1, 1]\n"}),
                "test.toml:3: model.compress_ratios");
  expect_begins(model_error({kBase, "[model]\n\ncachalot = {kv_source_layer_ids = [7]}\n"}),
                "test.toml:3: model.cachalot.kv_source_layer_ids: expected");
  expect_begins(model_error({kBase, "[model]\n\ncachalot.nothing = 1\n"}),
                "test.toml:3: model.cachalot.nothing: expected");
  expect_begins(model_error({kBase}, {"model.head_dim=1"}), "--model.head_dim=1: model.head_dim: ");
  expect_begins(model_error({kBase}, {"model.rope_theta=nan"}),
                "--model.rope_theta=nan: model.rope_theta: expected a number");
  expect_begins(model_error({kBase}, {"model.preset=huge"}), "--model.preset=huge: model.preset: ");
  // The preset's heads do not divide into as many groups: the key that the error names is not
  // given.
  expect_begins(model_error({kBase, "\n[model]\no_groups = 3\n"}),
                "test.toml:2: model.num_attention_heads: expected a multiple of o_groups = 3");
  expect_begins(model_error({kBase, "\n[model]\nconfig = \"c.json\"\n"}),
                "test.toml:2: model: expected one of preset, config and init_from");
  expect_begins(model_error({kBase}, {"model.preset=", "model.config=/nowhere/c.json"}),
                "--model.config=/nowhere/c.json: model.config: /nowhere/c.json: ");

  expect_begins(error_of({kBase, "[schedule.batch]\n\nbatch_tokens = 4097\n"}),
                "test.toml:3: schedule.batch.batch_tokens: expected whole sequences");
  expect_begins(error_of({kBase, "\nqat = true\n"}), "test.toml:2: qat: expected");
  expect_begins(error_of({kBase, "[recompute]\n\ntensors = \"logits\"\n"}),
                "test.toml:3: recompute.tensors: expected");
  expect_begins(error_of({kBase, "[[data]]\nname = \"a\"\n"}), "test.toml:1: data.0: expected");
  expect_begins(error_of({"[[data]]\nname = \"a\"\npath = \"b\"\n"}),
                "configuration: run_dir: expected");
}

// Neither the line of what was replaced nor that of a table that something was added to since.
TEST(TrainConfig, ErrorsNameWhatReplacedAValue) {
  const auto error_over = [](const std::string& over_text,
                             const std::vector<std::string>& assignments) {
    ConfigTree tree = parse_config_tree(kBase, "base.toml").value();
    overlay(tree, parse_config_tree(over_text, "over.toml").value());
    for (const std::string& assignment : assignments) {
      const Status status = assign(tree, assignment);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    const Result<TrainConfig> config = train_config_from(tree);
    const std::string message =
        config ? model_config(*config).error().message() : config.error().message();
    return message.substr(0, message.find(": expected"));
  };
  // One for another, of the same kind or another kind.
  EXPECT_EQ(error_over("run_dir = 1", {}), "over.toml:1: run_dir");
  EXPECT_EQ(error_over("run_dir = {a = 1}", {}), "over.toml:1: run_dir");
  EXPECT_EQ(error_over("model = 7", {}), "over.toml:1: model");
  EXPECT_EQ(error_over("run_dir = 1", {"run_dir=2"}), "--run_dir=2: run_dir");
  // The base's third line of text stands for data.0.name and .path no more.
  EXPECT_EQ(error_over("\n[[data]]\nname = \"a\"", {}), "over.toml:2: data.0");
  EXPECT_EQ(error_over("", {"data=[{name = 1}]"}), "--data=[{name = 1}]: data.0.name");
  EXPECT_EQ(error_over("", {"data.0={nam = 1}"}), "--data.0={nam = 1}: data.0.nam");
  EXPECT_EQ(error_over("", {"data.0.path="}), "--data.0.path=: data.0");
  // Tables that are replaced whole, and what lay in them.
  EXPECT_EQ(error_over("", {"schedule.batch={batch_tokens = 0}"}),
            "--schedule.batch={batch_tokens = 0}: schedule.batch.batch_tokens");
  EXPECT_EQ(error_over("", {"schedule={sequence = [{from_tokens = 5}]}"}),
            "--schedule={sequence = [{from_tokens = 5}]}: schedule.sequence.0.from_tokens");
  EXPECT_EQ(error_over("[model]\nhidden_size = 3", {"model={preset = \"nano\", hidden_size = -1}"}),
            "--model={preset = \"nano\", hidden_size = -1}: model.hidden_size");
  // A table in place of a value, and again.
  EXPECT_EQ(error_over("model = 7", {"model={hidden_size = 1}", "model.hidden_size=2"}),
            "--model.hidden_size=2: model");
  // Tables that only an assignment makes.
  EXPECT_EQ(error_over("", {"new.table.key=1"}), "--new.table.key=1: new");
  EXPECT_EQ(error_over("", {"model.o_groups=3"}), "--model.o_groups=3: model.num_attention_heads");
  // What stays keeps its line.
  EXPECT_EQ(
      error_over("[schedule.batch]\n\nfirst_batch_tokens = 1", {"schedule.micro_batch_tokens=0"}),
      "--schedule.micro_batch_tokens=0: schedule.micro_batch_tokens");
  EXPECT_EQ(error_over("[schedule.batch]\n\nfirst_batch_tokens = 9999", {}),
            "base.toml:10: schedule.batch.batch_tokens");
  // A dot in a name is no path.
  EXPECT_EQ(error_over("model.\"rope_scaling.factor\" = 1\n\nmodel.rope_scaling.factor = 0", {}),
            "over.toml:1: model.\"rope_scaling.factor\"");
}

TEST(TrainConfig, FieldsLieOverThePreset) {
  const TrainConfig config =
      read({kBase}, {"model.hidden_size=128", "model.cachalot={residual = \"plain\"}"}).value();
  const formats::ModelConfig model = model_config(config).value();
  EXPECT_EQ(model.hidden_size, 128);
  EXPECT_EQ(model.head_dim, formats::nano_config().head_dim);
  EXPECT_EQ(formats::layer_configs(model)[0].residual, formats::ResidualKind::plain);
  EXPECT_FALSE(read({kBase}, {"model.preset=huge"}).has_value());
}

// Any bytes give a configuration or an error.
TEST(TrainConfig, RandomBytesNeverCrash) {
  RngStream rng(9, RngPurpose::data, 0);
  for (int i = 0; i < 2000; ++i) {
    std::string text = kBase;
    for (int edit = 0; edit < 4; ++edit)
      text[rng.next_u32() % text.size()] = static_cast<char>(rng.next_u32() % 256);
    (void)read({text});
  }
  EXPECT_FALSE(error_of({std::string(100000, '[')}).empty());
  EXPECT_FALSE(error_of({"a = " + std::string(100000, '[')}).empty());
}

// A run's directory may hold any character; what is printed reads back, and errors show none that
// acts on a terminal.
TEST(TrainConfig, ControlCharactersAreEscaped) {
  for (const std::string& strange :
       std::vector<std::string>{"\x7f", "a\x1b[31mb", "\n\t\r", "\u0080\u009f", "\"\\\"", "\ufeff",
                                std::string(1, '\0')}) {
    const TrainConfig config = read({kBase}, {"run_dir=" + strange}).value();
    EXPECT_EQ(config.run_dir, strange);
    const Result<TrainConfig> again = read({resolved_toml(config)});
    ASSERT_TRUE(again.has_value()) << again.error().message();
    EXPECT_EQ(again->run_dir, strange);
  }
  const std::string strange = "\x7f\x1b\n\u0080\u009f";
  const std::string shown = "\\u007f\\u001b\\u000a\\u0080\\u009f";
  for (const std::string& assignment : std::vector<std::string>{
           "seed=" + strange, "optimizer.kind=" + strange, "recompute.tensors=" + strange,
           "data=[{name = \"" + strange, strange + "=1", "data." + strange + "=1", "a.." + strange,
           strange, "data.0." + strange + "=1"}) {
    const std::string message = error_of({kBase}, {assignment});
    EXPECT_NE(message.find(shown), std::string::npos) << message;
    EXPECT_EQ(message.find_first_of(strange.substr(0, 3)), std::string::npos) << message;
  }
  for (const std::string& key : {"model." + strange, std::string("model.preset")}) {
    const std::string message = error_of({kBase}, {key + "=" + strange});
    EXPECT_NE(message.find(shown), std::string::npos) << message;
    EXPECT_EQ(message.find_first_of(strange.substr(0, 3)), std::string::npos) << message;
  }
}

TEST(TrainConfig, WhatIsNotUtf8IsRefused) {
  for (const std::string& bytes : std::vector<std::string>{
           "\xff", "a\x80", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xef"}) {
    EXPECT_NE(error_of({kBase}, {"run_dir=" + bytes}).find("expected UTF-8"), std::string::npos);
    EXPECT_NE(error_of({kBase}, {"run_dir=\"" + bytes + "\""}).find("expected UTF-8"),
              std::string::npos);
    EXPECT_NE(error_of({kBase}, {bytes + "=1"}).find("expected UTF-8"), std::string::npos);
    EXPECT_NE(error_of({kBase, "run_dir = \"" + bytes + "\""}).find("test.toml:1: expected TOML"),
              std::string::npos);
  }
  EXPECT_EQ(error_of({kBase}, {"run_dir=\xff"}),
            "--run_dir=\ufffd: expected UTF-8, found other bytes");
  EXPECT_EQ(read({kBase}, {"run_dir=l\u00e4ufe/\U0001f40b"}).value().run_dir,
            "l\u00e4ufe/\U0001f40b");
}

std::string repeated(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

TEST(ConfigTree, DeepKeysAreRefusedBeforeTheyAreParsed) {
  const std::string deep = repeated("a.", 100000) + "a";
  for (const std::string& text : {deep + " = 1", "[" + deep + "]\nb = 1", "x = {" + deep + " = 1}",
                                  "x = 1\n\n" + deep + " = 1", repeated("a . ", 100000) + "a = 1",
                                  repeated("\"a\".", 100000) + "a = 1"}) {
    const auto tree = parse_config_tree(text, "deep.toml");
    ASSERT_FALSE(tree.has_value());
    EXPECT_NE(tree.error().message().find("at most 32 names"), std::string::npos)
        << tree.error().message();
  }
  ConfigTree tree;
  EXPECT_FALSE(assign(tree, deep + "=1").ok());
  EXPECT_FALSE(assign(tree, "x={" + deep + "=1}").ok());
  EXPECT_FALSE(
      parse_config_tree("x = " + repeated("[", 200) + repeated("]", 200), "d").has_value());
  // Dots that belong to no key, and a key as deep as it may be.
  for (const std::string& text :
       {"x = [" + repeated("1.5, ", 100) + "2.5]", "x = \"" + repeated("a.", 100) + "\"",
        "# " + repeated("a.", 100) + "\nx = 1", "x = \'\'\'" + repeated("a.", 100) + "\'\'\'",
        repeated("a.", 31) + "a = 1\n"}) {
    EXPECT_TRUE(parse_config_tree(text, "flat.toml").has_value()) << text;
  }
}

// The parser's own assertions must not end the process, nor may what it believes unreachable be
// reached: train/toml.h.
TEST(ConfigTree, TheParserSurvivesWhatItTakesForGranted) {
  const ConfigTree tree =
      parse_config_tree("x = \"\"\"a\\\n  \u00e4\u3001\"\"\"", "test.toml").value();
  EXPECT_EQ(tree.root.at("x").as_string(), "a\u00e4\u3001");
  EXPECT_FALSE(parse_config_tree("x\u00e4 = 1", "test.toml").has_value());
  EXPECT_FALSE(parse_config_tree("x = 1 \u3001", "test.toml").has_value());
  for (const std::string text : {"[\nmodel]\n", "[[[a]]]", "[[=", "[", "[[", "[ [a]]", "[.a]"})
    EXPECT_FALSE(parse_config_tree(text, "test.toml").has_value()) << text;
}

TEST(ConfigTree, WhatIsReplacedLeavesNoOrigin) {
  ConfigTree tree = parse_config_tree("a = [{b = 1, c = 2}]\nd.e = 3\nd2 = 4", "base.toml").value();
  overlay(tree, parse_config_tree("a = [{b = 1}]\nd = 5", "over.toml").value());
  EXPECT_EQ(tree.origins, (Origins{{"a", "over.toml:1"},
                                   {"a.0", "over.toml:1"},
                                   {"a.0.b", "over.toml:1"},
                                   {"d", "over.toml:2"},
                                   {"d2", "base.toml:3"}}));
}

constexpr char kNoSchedule[] =
    "run_dir = \"r\"\n[model]\npreset = \"nano\"\n[[data]]\nname = \"d\"\npath = \"p\"\n";

// A run without a budget would train nothing and say nothing.
TEST(TrainConfig, ABudgetIsNeeded) {
  EXPECT_NE(error_of({kNoSchedule}).find("schedule.batch.total_tokens: expected the tokens"),
            std::string::npos);
}

// Four passes within the preset's limits, and never more than 20.
TEST(TrainConfig, ASuggestedBudgetRepeatsNoTextTooOften) {
  EXPECT_EQ(suggested_budget("nano", 1'000'000), 4'000'000);
  EXPECT_EQ(suggested_budget("nano", 100'000), 1'000'000);
  EXPECT_EQ(suggested_budget("nano", 5'000), 100'000);
  EXPECT_EQ(suggested_budget("nano", std::numeric_limits<int64_t>::max()), 8'192'000);
  EXPECT_EQ(suggested_budget("flash", 5'000), 0);
}

TEST(TrainConfig, APresetBringsAScheduleThatFits) {
  const TrainConfig whole = read({kNoSchedule}, {"schedule.batch.total_tokens=8192000"}).value();
  EXPECT_EQ(whole.schedule.batch.batch_tokens, 16384);  // nano's card
  EXPECT_EQ(whole.schedule.sequence[0].sequence_length, 1024);
  EXPECT_EQ(whole.schedule.learning_rate.peak, 0.006);
  EXPECT_EQ(whole.schedule.learning_rate.warmup_steps, 50);
  EXPECT_EQ(whole.schedule.learning_rate.decay_end_tokens, 8192000 / 100 * 97);
  EXPECT_TRUE(budget_notes(whole).empty());
  // A smaller budget has smaller steps, so that there are enough of them.
  const TrainConfig small = read({kNoSchedule}, {"schedule.batch.total_tokens=1000000"}).value();
  EXPECT_EQ(small.schedule.batch.batch_tokens, 4096);
  EXPECT_EQ(small.schedule.learning_rate.peak, 0.003);
  EXPECT_EQ(small.schedule.learning_rate.warmup_steps, 24);
  EXPECT_TRUE(budget_notes(small).empty());
  // What is given stays, and the published models keep V4's.
  EXPECT_EQ(read({kNoSchedule},
                 {"schedule.batch.total_tokens=1000000", "schedule.batch.batch_tokens=2048"})
                ->schedule.batch.first_batch_tokens,
            2048);
  EXPECT_EQ(read({kNoSchedule}, {"model.preset=flash", "schedule.batch.total_tokens=1000000"})
                ->schedule.batch.batch_tokens,
            18432 * 4096LL);
}

TEST(TrainConfig, WhatABudgetDoesNotHoldIsSaid) {
  const auto notes = [](std::vector<std::string> assignments) {
    assignments.push_back("schedule.batch.total_tokens=1000000");
    return fmt::format("{}",
                       fmt::join(budget_notes(read({kNoSchedule}, assignments).value()), "\n"));
  };
  EXPECT_EQ(notes({}), "");
  EXPECT_NE(notes({"model.preset=flash"}).find("the run has 1 step:"), std::string::npos);
  EXPECT_NE(notes({"schedule.learning_rate.warmup_steps=500"}).find("warmup_steps = 500"),
            std::string::npos);
  EXPECT_NE(notes({"schedule.attention.dense_tokens=2000000"}).find("dense to the end"),
            std::string::npos);
}

TEST(TrainConfig, DifferencesAreToldByKey) {
  const TrainConfig a = read({kBase}).value();
  const TrainConfig b =
      read({kBase}, {"run_dir=elsewhere", "schedule.learning_rate.peak=0.25", "data.0.weight=2"})
          .value();
  EXPECT_EQ(differences_from(a, resolved_toml(a)).value(), std::vector<std::string>());
  const std::vector<std::string> found = differences_from(b, resolved_toml(a)).value();
  ASSERT_EQ(found.size(), 2u);
  EXPECT_TRUE(found[0].starts_with("data.0.weight: ") && found[0].ends_with(" -> 2.0")) << found[0];
  EXPECT_TRUE(found[1].starts_with("schedule.learning_rate.peak: ")) << found[1];
}

TEST(TrainConfig, AllErrorsComeAtOnce) {
  const std::string all =
      error_of({kBase}, {"losses.indexr=1", "precision=fp4", "seed=-1", "schedule=3"});
  for (const char* told :
       {"losses.indexr: ", "precision: ", "seed: ", "schedule: expected a table"})
    EXPECT_NE(all.find(told), std::string::npos) << told << "\n" << all;
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 3);  // and none for what the four entail
}

// The rows "| `key` | default |" of docs/training-keys.md.
std::map<std::string, std::string> documented_keys() {
  std::map<std::string, std::string> out;
  std::istringstream lines(read_text_file(test_data("../docs/training-keys.md")).value());
  std::string line;
  while (std::getline(lines, line)) {
    if (!line.starts_with("| `")) continue;
    const size_t end = line.find("` | ", 3), value_end = line.find(" | ", end + 4);
    out[line.substr(3, end - 3)] = line.substr(end + 4, value_end - end - 4);
  }
  return out;
}

void collect_keys(const json::value& value, const std::string& path,
                  std::map<std::string, std::string>& out) {
  if (value.is_object()) {
    for (const auto& [key, inner] : value.get_object())
      collect_keys(inner, path_below(path, key), out);
  } else if (value.is_array()) {
    collect_keys(value.get_array()[0], path, out);
  } else {
    const std::string line = to_toml({{"v", value}});
    out[path] = line.substr(4, line.size() - 5);
  }
}

TEST(TrainConfig, EveryKeyIsDocumentedWithItsDefault) {
  // What a configuration needs is given here, and set back to what it is without.
  TrainConfig config =
      read({"run_dir = \"r\"\n[model]\npreset = \"flash\"\n"},
           {"data=[{name = \"d\", path = \"p\"}]", "validation=[{name = \"d\", path = \"p\"}]",
            "schedule.batch.total_tokens=1"})
          .value();
  config.run_dir = config.model.preset = "";
  config.data[0].name = config.data[0].path = "";
  config.validation[0].name = config.validation[0].path = "";
  config.schedule.batch.total_tokens = 0;
  std::map<std::string, std::string> keys;
  collect_keys(parse_config_tree(resolved_toml(config), "resolved")->root, "", keys);
  std::map<std::string, std::string> documented = documented_keys();
  documented.erase("model.FIELD");
  EXPECT_EQ(keys.size(), documented.size());
  for (const auto& [key, value] : keys) EXPECT_EQ(documented[key], value) << key;
}

}  // namespace
}  // namespace cachalot::train
