// The cache's laws, seen through calls: what is shared, what a state holds, what runs again, what
// is written and read, and what a torn file does.
// Source  reference/infrastructure 2.2, 8.1, 8.2: V2 to V5, O2 to O4.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "api/api_testing.h"
#include "base/python_json.h"
#include "cache/disk_store_testing.h"

namespace cachalot::api {
namespace {

using cache::PrefixCounters;
using cache::StatePolicy;
using cache::StateStrategy;
using cache::testing::TestFolder;
using testing::at;
using testing::parsed;
using testing::TinyServer;

constexpr int64_t kBlock = 8;  // of TinyServer
// Of its model: what a state can be made of again (reference/infrastructure 8.2).
constexpr int64_t kWindow = 8, kLayers = 2;
constexpr StatePolicy kFull = {StateStrategy::full, 64};
constexpr StatePolicy kZero = {StateStrategy::zero, 64};
constexpr StatePolicy every(int64_t period) { return {StateStrategy::periodic, period, false}; }

using Change = std::function<void(engine::EngineOptions&)>;
Change with_states(const StatePolicy& states, const TestFolder* folder = nullptr) {
  return [=](engine::EngineOptions& options) {
    options.prefix_cache->states = states;
    if (folder == nullptr) return;
    options.prefix_cache->directory = folder->path();
    options.prefix_cache->max_disk_bytes = int64_t{64} << 20;
  };
}
TinyServer tiny(const Change& change = {}) { return TinyServer(testing::served_options(), change); }

// Ids that begin alike at every length; `last`: another end, where it is not negative.
std::string ids(int64_t length, int64_t last = -1) {
  std::string out;
  for (int64_t i = 0; i < length; ++i)
    out += (i == 0 ? "" : ", ") + std::to_string(3 + i * i * 7 % 4000);
  return "[" + out + (last < 0 ? "" : ", " + std::to_string(last)) + "]";
}
std::string body(const std::string& prompt, int64_t max_tokens = 9, std::string_view more = "") {
  return "{\"prompt\": " + prompt + ", \"max_tokens\": " + std::to_string(max_tokens) +
         ", \"temperature\": 1, \"seed\": 4, \"logprobs\": 3" + std::string(more) + "}";
}
json::value completion(TinyServer& server, const std::string& asked) {
  return parsed(server.post("/v1/completions", asked));
}
json::value choices(TinyServer& server, const std::string& asked) {
  return at(completion(server, asked), "choices");
}
int64_t cached(const json::value& answer) {
  return at(answer, "usage/prompt_tokens_details/cached_tokens").as_int64();
}

TEST(CacheLaws, BlocksOfEverySizeGiveTheSameAnswers) {
  TinyServer alone = tiny([](engine::EngineOptions& options) { options.prefix_cache.reset(); });
  const json::value expected = choices(alone, body(ids(600)));
  for (const int64_t block : {8, 16, 32, 128, 256, 512}) {
    TinyServer server =
        tiny([&](engine::EngineOptions& options) { options.cache_block_tokens = block; });
    EXPECT_EQ(choices(server, body(ids(600))), expected) << block;
    const json::value again = completion(server, body(ids(600)));
    EXPECT_EQ(at(again, "choices"), expected) << block;
    EXPECT_EQ(cached(again), 599 / block * block);
  }
}

// Of the memory that one call of the longest context takes.
TEST(CacheLaws, CallsHoldAStateOfFixedSizeAndGiveEverythingBack) {
  const cache::CacheLayout layout = tiny().engine().cache_layout();
  TinyServer server = tiny([&](engine::EngineOptions& options) {
    options.max_sequences = 2;
    options.cache_bytes = 2 * layout.state_bytes() + layout.num_blocks(4096) * layout.block_bytes();
  });
  const std::string longest = body(ids(4080));
  ASSERT_EQ(server.post("/v1/completions", longest).status, 200);
  const int64_t reserved = server.engine().cache_reserved_bytes();
  for (int64_t i = 0; i < 400; ++i) {
    const std::string more = i % 3 == 0   ? R"(, "n": 3)"
                             : i % 3 == 1 ? R"(, "stop": [" ", "e"])"
                                          : R"(, "cache_salt": ")" + std::to_string(i) + "\"";
    const HttpAnswer answer =
        server.post("/v1/completions", body(ids(1 + i % 40, i), 1 + i % 4, more));
    ASSERT_EQ(answer.status, 200) << i << answer.body;
  }
  EXPECT_EQ(server.post("/v1/completions", body(ids(5000))).status, 400);
  EXPECT_EQ(server.post("/v1/completions", longest).status, 200);
  EXPECT_EQ(server.engine().cache_reserved_bytes(), reserved);
  EXPECT_EQ(server.engine().counts().preemptions, 0);
}

TEST(CacheLaws, CallsWithACommonBeginningHoldItOnce) {
  TinyServer wide = tiny();
  const cache::CacheLayout& layout = wide.engine().cache_layout();
  const int64_t common = 600 / kBlock;
  // Room for the beginning once and for eight ends.
  TinyServer server = tiny([&](engine::EngineOptions& options) {
    options.cache_bytes =
        options.max_sequences * layout.state_bytes() + (common + 8 * 3) * layout.block_bytes();
  });
  const json::value first = choices(server, body(ids(600)));
  EXPECT_EQ(choices(wide, body(ids(600))), first);
  // The answers run beside each other there, as where there is room for all.
  const int64_t steps = server.engine().counts().steps - wide.engine().counts().steps;
  const std::string many = body(ids(600), 9, R"(, "n": 8)");
  EXPECT_EQ(choices(server, many), choices(wide, many));
  EXPECT_EQ(server.engine().counts().steps - wide.engine().counts().steps, steps);
  EXPECT_EQ(server.engine().counts().preemptions, 0);
  // Other prompts go on from the last block before the first one's last token, and keep one more
  // block each.
  std::string ends;
  for (int64_t i = 0; i < 7; ++i) ends += (i == 0 ? "[" : ", ") + ids(600, i);
  const PrefixCounters before = wide.engine().prefix_counters();
  EXPECT_EQ(choices(server, body(ends + "]")), choices(wide, body(ends + "]")));
  const PrefixCounters after = wide.engine().prefix_counters();
  EXPECT_EQ(after.memory_blocks - before.memory_blocks, 7 * (common - 1));
  EXPECT_EQ(after.stored_blocks - before.stored_blocks, 7);
  // What is shared has stayed what it was.
  EXPECT_EQ(choices(server, body(ids(600))), first);
}

// reference/infrastructure 2.2 at this model's sizes: of two layers one keeps, for every four
// tokens, a row of 16 numbers and an index row of 16, in fp32.
TEST(CacheLaws, BytesOfATokenAreThoseOfTheFormula) {
  constexpr int64_t kTokenBytes = (16 + 16) * 4 / 4;
  for (const int64_t block : {8, 16, 64}) {
    const TestFolder folder;
    int64_t num_blocks = 0;
    {
      TinyServer server = tiny([&](engine::EngineOptions& options) {
        with_states(kZero, &folder)(options);
        options.cache_block_tokens = block;
      });
      completion(server, body(ids(640), 1));
      num_blocks = server.engine().prefix_counters().stored_blocks;
    }
    EXPECT_EQ(num_blocks, 640 / block);
    cache::RecordHeader header;
    header.tokens.resize(static_cast<size_t>(block));
    header.payload_bytes = kTokenBytes * block;
    EXPECT_EQ(folder.segment_bytes(), cache::kSegmentHeadBytes + num_blocks * record_bytes(header));
  }
}

TEST(CacheLaws, WhatRunsAgainIsWhatTheStrategySays) {
  for (const StatePolicy& states : {kFull, every(16), every(64), kZero}) {
    TinyServer server = tiny(with_states(states));
    completion(server, body(ids(600)));
    // Each keeps the state at its own end: the longest first.
    for (const int64_t length : {593, 513, 512, 250, 129, 128, 127, 65, 64, 9, 8, 1}) {
      const PrefixCounters before = server.engine().prefix_counters();
      const json::value answer = completion(server, body(ids(length), 1));
      const PrefixCounters after = server.engine().prefix_counters();
      const int64_t matched = (length - 1) / kBlock * kBlock;
      const int64_t period = states.strategy == StateStrategy::periodic ? states.period_tokens : 1;
      const int64_t reused = matched / period * period;
      EXPECT_EQ(after.reused_tokens - before.reused_tokens, reused) << length;
      EXPECT_EQ(cached(answer), reused) << length;
      EXPECT_EQ(after.memory_blocks - before.memory_blocks, reused / kBlock) << length;
      const int64_t again = after.recomputed_tokens - before.recomputed_tokens;
      if (states.strategy == StateStrategy::zero) {
        EXPECT_LE(again, kWindow * kLayers) << length;
        EXPECT_EQ(again > 0, matched > 0) << length;
      } else {
        EXPECT_EQ(again, matched - reused) << length;
      }
    }
  }
}

TEST(CacheLaws, WhatIsWrittenAndReadIsWhatTheStrategySays) {
  const auto record = [](int64_t payload_bytes) {
    cache::RecordHeader header;
    header.tokens.resize(kBlock);
    header.payload_bytes = payload_bytes;
    return record_bytes(header);
  };
  for (const StatePolicy& states : {kFull, every(64), kZero}) {
    const TestFolder folder;
    PrefixCounters written;
    int64_t block_bytes = 0;
    {
      TinyServer server = tiny(with_states(states, &folder));
      block_bytes = server.engine().cache_layout().block_bytes();
      completion(server, body(ids(640), 1));
      completion(server, body(ids(640), 1));  // writes nothing more
      written = server.engine().prefix_counters();
    }
    const int64_t num_states = states.strategy == StateStrategy::full       ? 80
                               : states.strategy == StateStrategy::periodic ? 10
                                                                            : 0;
    EXPECT_EQ(written.stored_blocks, 80);
    EXPECT_EQ(written.stored_states, num_states);
    const int64_t state_bytes = num_states == 0 ? 0 : written.stored_state_bytes / num_states;
    EXPECT_EQ(folder.segment_bytes(), cache::kSegmentHeadBytes + 80 * record(block_bytes) +
                                          num_states * record(state_bytes));
    // As far as the last state, whose alone is read.
    TinyServer restarted = tiny(with_states(states, &folder));
    completion(restarted, body(ids(330), 1));
    const PrefixCounters read = restarted.engine().prefix_counters();
    const int64_t blocks = states.strategy == StateStrategy::periodic ? 320 / kBlock : 328 / kBlock;
    EXPECT_EQ(read.disk_blocks, blocks);
    EXPECT_EQ(read.disk_read_bytes,
              blocks * record(block_bytes) + (num_states == 0 ? 0 : record(state_bytes)));
  }
}

TEST(CacheLaws, LongerPeriodsKeepLessAndRunMoreAgain) {
  int64_t kept = INT64_MAX, rerun = -1;
  for (const StatePolicy& states : {kFull, every(16), every(32), every(64), every(128), kZero}) {
    TinyServer server = tiny(with_states(states));
    completion(server, body(ids(256), 1));
    const int64_t state_bytes = server.engine().prefix_counters().stored_state_bytes;
    for (int64_t blocks = 31; blocks > 0; --blocks)
      completion(server, body(ids(blocks * kBlock + 1), 1));
    const int64_t again = server.engine().prefix_counters().recomputed_tokens;
    EXPECT_LT(state_bytes, kept);
    if (states.strategy == StateStrategy::zero) {
      EXPECT_EQ(state_bytes, 0);
      EXPECT_LE(again, 31 * kWindow * kLayers);
    } else {
      EXPECT_GT(again, rerun);
    }
    kept = state_bytes;
    rerun = again;
  }
}

TEST(CacheLaws, ATornFileCostsTimeAndNoToken) {
  TinyServer alone = tiny([](engine::EngineOptions& options) { options.prefix_cache.reset(); });
  const json::value expected = choices(alone, body(ids(600)));
  for (const StatePolicy& states : {kFull, every(64), kZero}) {
    for (const std::string damage : {"a flipped bit", "a cut", "an end", "no index"}) {
      const TestFolder folder;
      {
        TinyServer server = tiny(with_states(states, &folder));
        completion(server, body(ids(600)));
      }
      const std::string path = folder.segments().at(0);
      const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
      if (damage == "a flipped bit") {
        // In the first block's rows.
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekg(cache::kSegmentHeadBytes + 256);
        const int byte = file.get();
        file.seekp(cache::kSegmentHeadBytes + 256);
        file.put(static_cast<char>(byte ^ 4));
      } else if (damage == "no index") {
        folder.lose_index();
      } else {
        std::filesystem::resize_file(path, damage == "a cut" ? size / 2 : 10);
      }
      TinyServer server = tiny(with_states(states, &folder));
      const json::value answer = completion(server, body(ids(600)));
      EXPECT_EQ(at(answer, "choices"), expected) << damage;
      if (damage == "no index") {
        EXPECT_GT(cached(answer), 550);
      } else {
        EXPECT_LT(cached(answer), damage == "a cut" ? 400 : 1) << damage;
      }
      EXPECT_EQ(choices(server, body(ids(600))), expected) << damage;
    }
  }
}

TEST(CacheLaws, ServersThatWriteAndReadOneFolderSayTheSame) {
  TinyServer alone = tiny([](engine::EngineOptions& options) { options.prefix_cache.reset(); });
  constexpr int64_t kPrompts = 8;
  std::vector<std::string> asked;
  std::vector<json::value> expected;
  for (int64_t i = 0; i < kPrompts; ++i) {
    asked.push_back(body(ids(40 * (i + 1), i), 4));
    expected.push_back(choices(alone, asked.back()));
  }
  const TestFolder folder;
  std::vector<std::thread> servers;
  for (int64_t place = 0; place < 3; ++place) {
    servers.emplace_back([&, place] {
      for (int64_t round = 0; round < 3; ++round) {
        TinyServer server = tiny(with_states(kFull, &folder));
        for (int64_t i = 0; i < kPrompts; ++i) {
          const auto which = static_cast<size_t>((i * (2 * place + 1) + round) % kPrompts);
          EXPECT_EQ(choices(server, asked[which]), expected[which]) << place << " " << round;
        }
        EXPECT_EQ(server.engine().prefix_counters().damaged_records, 0);
      }
    });
  }
  for (std::thread& server : servers) server.join();
}

}  // namespace
}  // namespace cachalot::api
