#include "data/data_loader.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <map>
#include <set>

#include "data/data_testing.h"
#include "data/hex64.h"
#include "data/labels.h"
#include "data/streams.h"

namespace cachalot::data {
namespace {
constexpr FimTokens kFim = {.begin = 900001, .hole = 900002, .end = 900003};

// Documents [first, first + count) of 1 to 60 tokens in two shards.
Dataset dataset(const std::string& name, int64_t first, int64_t count) {
  std::vector<std::vector<int32_t>> shards[2];
  RngStream rng = data_stream(static_cast<uint64_t>(first), DataUse::tasks, 0, 0, 0);
  for (int64_t d = first; d < first + count; ++d) {
    const auto length = 1 + static_cast<int64_t>(draw_below(rng, 60));
    shards[d < first + count / 3 ? 0 : 1].push_back(telling_document(d, length));
  }
  return *Dataset::create(
      name, {std::make_shared<MemorySource>(shards[0]), std::make_shared<MemorySource>(shards[1])});
}

LoaderConfig config() {
  return {
      .sequence_length = 32, .window_packs = 16, .seed = 5, .fim_rate = 0.2, .fim_tokens = kFim};
}

DataLoader loader(const LoaderConfig& config) {
  return *DataLoader::create(config, {{dataset("a", 0, 60), 3}, {dataset("b", 100, 40), 1}});
}

std::vector<Pack> packs_from(DataLoader& loader, LoaderCursor cursor, int64_t steps,
                             int64_t packs_per_step) {
  std::vector<Pack> packs;
  for (int64_t step = 0; step < steps; ++step) {
    Batch batch = *loader.batch(cursor, packs_per_step);
    for (Pack& pack : batch.packs) packs.push_back(std::move(pack));
    cursor = batch.next;
  }
  return packs;
}

void expect_equal(std::span<const Pack> a, std::span<const Pack> b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].tokens, b[i].tokens);
    ASSERT_EQ(a[i].sample_begins(), b[i].sample_begins());
  }
}

TEST(DataLoader, ResumesAnywhereWithTheSameStream) {
  DataLoader undisturbed = loader(config());
  const std::vector<Pack> all = packs_from(undisturbed, undisturbed.start(), 60, 3);
  LoaderCursor cursor = undisturbed.start();
  for (int64_t step = 0; step < 60; ++step) {
    DataLoader fresh = loader(config());
    const auto restored = cursor_from_json(to_json(cursor), "checkpoint");
    ASSERT_TRUE(restored.has_value()) << restored.error().to_string();
    ASSERT_EQ(*restored, cursor);
    ASSERT_TRUE(fresh.check_cursor(*restored).ok());
    const int64_t steps = std::min<int64_t>(4, 60 - step);
    expect_equal(
        packs_from(fresh, *restored, steps, 3),
        std::span(all).subspan(static_cast<size_t>(step * 3), static_cast<size_t>(steps * 3)));
    cursor = fresh.plan(*restored, 3).next;
    ASSERT_EQ(cursor.step, step + 1);
  }
  EXPECT_GE(cursor.window, 8);  // many windows and epochs were entered
  EXPECT_GE(cursor.sources[0].epoch, 1);
}

TEST(DataLoader, StepsThreadsAndReadAheadDoNotMatter) {
  DataLoader one = loader(config());
  const std::vector<Pack> all = packs_from(one, one.start(), 48, 2);
  expect_equal(packs_from(one, one.start(), 6, 16), all);
  expect_equal(packs_from(one, one.start(), 96, 1), all);
  for (const int num_threads : {1, 2, 3}) {
    ThreadPool threads(num_threads);
    DataLoader other = loader(config());
    LoaderCursor cursor = other.start(), ahead = cursor;
    for (int i = 0; i < 5; ++i) ahead = other.plan(ahead, 4).next;
    for (size_t step = 0; step < 19; ++step) {
      const Batch future = *other.batch(ahead, 4, &threads);
      const Batch now = *other.batch(cursor, 4, &threads);
      expect_equal(now.packs, std::span(all).subspan(step * 4, 4));
      expect_equal(future.packs, std::span(all).subspan((step + 5) * 4, 4));
      ahead = future.next;
      cursor = now.next;
    }
  }
}

// Without FIM each epoch gives every token of a dataset exactly once, each document in order inside
// its sample.
TEST(DataLoader, EpochsAreComplete) {
  LoaderConfig plain = config();
  plain.fim_rate = 0;
  DataLoader loader = *DataLoader::create(plain, {{dataset("a", 0, 60), 1}});
  std::map<int32_t, int64_t> seen;
  LoaderCursor cursor = loader.start();
  std::map<int64_t, std::vector<int64_t>> documents_by_epoch;
  while (cursor.sources[0].epoch < 3) {
    const Batch batch = *loader.batch(cursor, 4);
    for (const Pack& pack : batch.packs) {
      ASSERT_LE(pack.tokens.size(), 32u);
      for (const Sample& sample : pack.samples) {
        const auto first = static_cast<size_t>(sample.pack_begin);
        for (int64_t k = 0; k < sample.length; ++k) {
          ASSERT_EQ(pack.tokens[first + static_cast<size_t>(k)], pack.tokens[first] + k);
        }
        ASSERT_EQ(pack.tokens[first] % 1000, sample.begin);
        if (sample.epoch < 2) {
          for (int64_t k = 0; k < sample.length; ++k) {
            ++seen[pack.tokens[first] + static_cast<int32_t>(k)];
          }
          if (sample.begin == 0) {
            documents_by_epoch[sample.epoch].push_back(pack.tokens[first] / 1000);
          }
        }
      }
    }
    cursor = batch.next;
  }
  const Dataset a = dataset("a", 0, 60);
  EXPECT_EQ(static_cast<int64_t>(seen.size()), a.num_tokens());
  for (const auto& [token, count] : seen) ASSERT_EQ(count, 2) << token;
  EXPECT_NE(documents_by_epoch[0], documents_by_epoch[1]);
}

TEST(DataLoader, SharesAreKeptByTokens) {
  DataLoader mixed = loader(config());
  LoaderCursor cursor = mixed.start();
  for (int i = 0; i < 20; ++i) cursor = mixed.skip_window(cursor);
  const double a = static_cast<double>(cursor.sources[0].tokens);
  const double b = static_cast<double>(cursor.sources[1].tokens);
  // The one behind is always served next, so the share is off by at most one document, 63 tokens,
  // of either.
  EXPECT_NEAR(a / 3, b, 63);
  EXPECT_GE(a + b, 20 * 16 * 32);
}

// No label's token lies in another sample than the token it is for. Tokens tell document and place;
// FIM is off so that places ascend.
TEST(DataLoader, NoLabelCrossesASampleBoundary) {
  LoaderConfig plain = config();
  plain.fim_rate = 0;
  DataLoader packed = loader(plain);
  int64_t num_boundaries = 0, num_labels = 0;
  for (const Pack& pack : packs_from(packed, packed.start(), 20, 4)) {
    for (const int64_t shift : {1, 2, 3}) {
      const std::vector<int32_t> labels = shifted_labels(pack.tokens, pack.sample_begins(), shift);
      for (size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == kNoLabel) continue;
        ASSERT_EQ(labels[i], pack.tokens[i] + shift);
        ++num_labels;
      }
    }
    num_boundaries += static_cast<int64_t>(pack.samples.size()) - 1;
  }
  EXPECT_GT(num_boundaries, 20);
  EXPECT_GT(num_labels, 2000);
}

// Rearranged documents, joined from their pieces over packs, come back.
TEST(DataLoader, FimIsPerDocumentBeforePacking) {
  LoaderConfig all_fim = config();
  all_fim.fim_rate = 0.5;
  all_fim.fim_keep_first = 1;
  all_fim.fim_keep_last = 1;
  DataLoader loader = *DataLoader::create(all_fim, {{dataset("a", 0, 60), 1}});
  const Dataset original = dataset("a", 0, 60);
  std::map<std::pair<int64_t, int64_t>, std::map<int64_t, std::vector<int32_t>>> pieces;
  LoaderCursor cursor = loader.start();
  while (cursor.sources[0].epoch < 2) {
    const Batch batch = *loader.batch(cursor, 4);
    for (const Pack& pack : batch.packs) {
      for (const Sample& s : pack.samples) {
        if (s.epoch > 0) continue;
        const auto begin = pack.tokens.begin() + s.pack_begin;
        pieces[{s.shard, s.document}][s.begin].assign(begin, begin + s.length);
      }
    }
    cursor = batch.next;
  }
  ASSERT_EQ(pieces.size(), 60u);
  int num_fim = 0;
  for (const auto& [place, parts] : pieces) {
    std::vector<int32_t> told;
    for (const auto& [begin, part] : parts) {
      ASSERT_EQ(begin, static_cast<int64_t>(told.size()));
      told.insert(told.end(), part.begin(), part.end());
    }
    const TokenSource& shard = original.shard(place.first);
    std::vector<int32_t> ids(static_cast<size_t>(shard.document_length(place.second)));
    ASSERT_TRUE(shard.read(place.second, 0, ids).ok());
    const auto undone = undo_fim(told, kFim, ids.back());
    ASSERT_TRUE(undone.has_value());
    EXPECT_EQ(*undone, ids);
    EXPECT_EQ(told.front(), ids.front());
    EXPECT_EQ(told.back(), ids.back());
    num_fim += told.size() == ids.size() + 3;
  }
  EXPECT_GT(num_fim, 15);
  EXPECT_LT(num_fim, 45);
}

TEST(DataLoader, StagesGoOnWhereTheLastOneEnded) {
  DataLoader short_stage = loader(config());
  LoaderCursor cursor = short_stage.plan(short_stage.start(), 5).next;
  LoaderConfig longer = config();
  longer.sequence_length = 64;
  DataLoader long_stage = loader(longer);
  EXPECT_FALSE(long_stage.check_cursor(cursor).ok());
  EXPECT_FALSE(long_stage.adopt_cursor(cursor).has_value());
  const auto adopted = long_stage.adopt_cursor(short_stage.skip_window(cursor));
  ASSERT_TRUE(adopted.has_value()) << adopted.error().to_string();
  // The first window drew these documents; the next stage starts behind them.
  std::set<std::pair<int64_t, int64_t>> drawn;
  while (cursor.window == 0) {
    const StepPlan step = short_stage.plan(cursor, 1);
    if (step.next.window > 0) break;
    for (const Sample& s : step.packs[0]) {
      if (s.epoch == 0 && s.dataset == 0) drawn.insert({s.shard, s.document});
    }
    cursor = step.next;
  }
  for (const auto& pack : long_stage.plan(*adopted, 2).packs) {
    for (const Sample& s : pack) {
      if (s.epoch == 0 && s.dataset == 0) {
        EXPECT_FALSE(drawn.contains({s.shard, s.document}));
      }
    }
  }
  EXPECT_FALSE(drawn.empty());
  EXPECT_EQ(long_stage.plan(*adopted, 2).next.step, 2);
}

// Equal documents of one pack, and windows of one: packs come in the order in which documents are
// drawn.
constexpr int64_t kEqualLength = 64;
Dataset equal_documents(const std::string& name, int64_t first, int64_t count) {
  std::vector<std::vector<int32_t>> documents;
  for (int64_t d = first; d < first + count; ++d)
    documents.push_back(telling_document(d, kEqualLength));
  return *Dataset::create(name, {std::make_shared<MemorySource>(documents)});
}
LoaderConfig one_document_a_window() {
  return {.sequence_length = kEqualLength, .window_packs = 1, .seed = 5};
}
std::vector<Sample> drawn(DataLoader& loader, LoaderCursor* cursor, int64_t count) {
  std::vector<Sample> samples;
  for (int64_t i = 0; i < count; ++i) {
    const StepPlan step = loader.plan(*cursor, 1);
    EXPECT_EQ(step.packs[0].size(), 1u);
    samples.push_back(step.packs[0][0]);
    *cursor = step.next;
  }
  return samples;
}

TEST(DataLoader, EveryEpochHasAnOrderOfItsOwn) {
  constexpr int64_t kDocuments = 50;
  DataLoader loader =
      *DataLoader::create(one_document_a_window(), {{equal_documents("a", 0, kDocuments), 1}});
  LoaderCursor cursor = loader.start();
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> order;
    for (const Sample& sample : drawn(loader, &cursor, kDocuments)) {
      EXPECT_EQ(sample.epoch, epoch);
      order.push_back(sample.document);
    }
    EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(),
              static_cast<size_t>(kDocuments));
    orders.insert(std::move(order));
  }
  EXPECT_EQ(orders.size(), 3u);
}

// Of the 65 * 66 / 2 cuts two draws agree on one in two thousand or so; of 50 documents not on
// five.
TEST(DataLoader, FimCutsADocumentAnewInEveryEpoch) {
  constexpr int64_t kDocuments = 50;
  LoaderConfig config = one_document_a_window();
  config.fim_rate = 1;
  config.fim_tokens = kFim;
  config.sequence_length += 3;
  DataLoader loader = *DataLoader::create(config, {{equal_documents("a", 0, kDocuments), 1}});
  LoaderCursor cursor = loader.start();
  std::map<int64_t, std::pair<int64_t, int64_t>> cuts;
  for (const Sample& sample : drawn(loader, &cursor, kDocuments))
    cuts[sample.document] = {sample.fim->prefix_end, sample.fim->suffix_begin};
  int64_t num_same = 0;
  for (const Sample& sample : drawn(loader, &cursor, kDocuments)) {
    EXPECT_EQ(sample.epoch, 1);
    num_same +=
        cuts.at(sample.document) == std::pair(sample.fim->prefix_end, sample.fim->suffix_begin);
  }
  EXPECT_LT(num_same, 5);
}

// What an earlier stage drew is no debt: a stage's shares count from its start. Where datasets are
// equally far behind, the first one's turn it is.
TEST(DataLoader, AStageCountsItsSharesFromItsStart) {
  const auto loader_with = [](double weight_a, double weight_b) {
    return *DataLoader::create(
        one_document_a_window(),
        {{equal_documents("a", 0, 200), weight_a}, {equal_documents("b", 500, 200), weight_b}});
  };
  const auto datasets = [](DataLoader& loader, LoaderCursor* cursor, int64_t count) {
    std::vector<int64_t> of;
    for (const Sample& sample : drawn(loader, cursor, count)) of.push_back(sample.dataset);
    return of;
  };
  DataLoader first = loader_with(3, 1);
  LoaderCursor cursor = first.start();
  // After one of each, a has the lower share until it has three to one of b.
  EXPECT_EQ(datasets(first, &cursor, 12),
            (std::vector<int64_t>{0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0}));
  DataLoader second = loader_with(1, 1);
  cursor = second.adopt_cursor(first.skip_window(cursor)).value();
  EXPECT_EQ(datasets(second, &cursor, 6), (std::vector<int64_t>{0, 1, 0, 1, 0, 1}));
}

TEST(DataLoader, UnshuffledOrderIsTheFiles) {
  LoaderConfig plain = {.sequence_length = 1000, .window_packs = 1, .shuffle = false};
  DataLoader loader = *DataLoader::create(
      plain, {{*Dataset::create("x", {std::make_shared<MemorySource>(
                                         std::vector<std::vector<int32_t>>{{1}, {}, {2}, {3}})}),
               1}});
  const Batch batch = *loader.batch(loader.start(), 1);
  EXPECT_EQ(batch.packs[0].tokens.size(), 1000u);
  EXPECT_EQ(batch.packs[0].tokens[0], 1);
  EXPECT_EQ(batch.packs[0].tokens[1], 2);
  EXPECT_EQ(batch.packs[0].tokens[2], 3);
  EXPECT_EQ(batch.packs[0].tokens[3], 1);
}

TEST(DataLoader, SeedsGiveOtherStreams) {
  LoaderConfig other = config();
  other.seed = 6;
  DataLoader a = loader(config()), b = loader(other);
  EXPECT_NE(packs_from(a, a.start(), 1, 4)[0].tokens, packs_from(b, b.start(), 1, 4)[0].tokens);
}

// A run that is resumed by a later version must go on with the same data: these bits never change.
TEST(DataLoader, StreamIsPinned) {
  DataLoader mixed = loader(config());
  std::vector<int32_t> tokens;
  for (const Pack& pack : packs_from(mixed, mixed.start(), 40, 2)) {
    tokens.insert(tokens.end(), pack.tokens.begin(), pack.tokens.end());
  }
  EXPECT_EQ(to_hex64(XXH3_64bits(tokens.data(), tokens.size() * sizeof(int32_t))),
            "93c76431ad78c9a7");
}

TEST(DataLoader, RefusesWrongConfigurations) {
  const auto refuses = [](auto change) {
    LoaderConfig wrong = config();
    change(wrong);
    return !DataLoader::create(wrong, {{dataset("a", 0, 9), 1}}).has_value();
  };
  EXPECT_FALSE(refuses([](LoaderConfig&) {}));
  EXPECT_TRUE(refuses([](LoaderConfig& c) { c.sequence_length = 0; }));
  EXPECT_TRUE(refuses([](LoaderConfig& c) { c.window_packs = 0; }));
  EXPECT_TRUE(refuses([](LoaderConfig& c) { c.fim_rate = 1.5; }));
  EXPECT_TRUE(refuses([](LoaderConfig& c) { c.fim_rate = -0.1; }));
  EXPECT_TRUE(refuses([](LoaderConfig& c) { c.fim_tokens.reset(); }));
  EXPECT_TRUE(refuses([](LoaderConfig& c) { c.fim_keep_first = -1; }));
  EXPECT_FALSE(DataLoader::create(config(), {}).has_value());
  EXPECT_FALSE(DataLoader::create(config(), {{dataset("a", 0, 9), 0}}).has_value());
  EXPECT_FALSE(Dataset::create("none", {}).has_value());
}

TEST(DataLoader, WhatChangedUnderACursorIsNamed) {
  const auto message = [](const LoaderCursor& cursor, const LoaderConfig& with,
                          std::vector<MixEntry> mix) {
    return DataLoader::create(with, std::move(mix))->check_cursor(cursor).message();
  };
  const LoaderCursor cursor =
      DataLoader::create(config(), {{dataset("a", 0, 9), 1}, {dataset("b", 1, 9), 1}})->start();
  const auto expect_named = [](const std::string& text, std::string_view what) {
    EXPECT_NE(text.find(what), std::string::npos) << text;
    EXPECT_NE(text.find("model.init_from"), std::string::npos) << text;
  };
  expect_named(message(cursor, config(), {{dataset("a", 0, 9), 1}, {dataset("b", 1, 8), 1}}),
               "content of dataset \"b\"");
  expect_named(message(cursor, config(), {{dataset("a", 0, 9), 1}}), "1 datasets");
  LoaderConfig other = config();
  other.seed += 1;
  expect_named(message(cursor, other, {{dataset("a", 0, 9), 1}, {dataset("b", 1, 9), 1}}),
               "settings");
  LoaderCursor older = cursor;  // saved before data sets were kept
  older.datasets.clear();
  EXPECT_TRUE(cursor_from_json(to_json(older), "cursor").has_value());
  expect_named(message(older, config(), {{dataset("a", 0, 9), 1}}), "other ones");
}

TEST(LoaderCursor, BadJsonIsRefused) {
  DataLoader any = loader(config());
  const std::string good = to_json(any.start());
  ASSERT_TRUE(cursor_from_json(good, "cursor").has_value());
  const std::pair<std::string, std::string> edits[] = {
      {"\"step\":0", "\"step\":-1"},
      {"\"step\":0,", ""},
      {"\"pack\":0", "\"pack\":\"0\""},
      {"\"tokens\":0", "\"tokens\":{}"},
      {"\"sources\"", "\"other\""},
      {"\"datasets\":[\"", "\"datasets\":[\"z"},
      {"\"fingerprint\":\"", "\"fingerprint\":\"z"},
      {"\"fingerprint\":\"", "\"fingerprint\":\"0"}};
  for (const auto& [from, to] : edits) {
    std::string bad = good;
    ASSERT_NE(bad.find(from), std::string::npos);
    bad.replace(bad.find(from), from.size(), to);
    const auto cursor = cursor_from_json(bad, "cursor.json");
    ASSERT_FALSE(cursor.has_value()) << bad;
    EXPECT_NE(cursor.error().message().find("cursor.json"), std::string::npos);
  }
  LoaderCursor far = any.start();
  far.sources[0].document = 60;
  EXPECT_FALSE(any.check_cursor(far).ok());
  far.sources.pop_back();
  EXPECT_FALSE(any.check_cursor(far).ok());
}

}  // namespace
}  // namespace cachalot::data
