// cachalot cache: what is kept, whether it is sound, room, and why a prompt is found.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "apps/binary.h"
#include "cache/disk_store_testing.h"

namespace cachalot::apps {
namespace {

using cache::testing::TestFolder;

void fill(const TestFolder& folder) {
  const auto store = cache::DiskStore::open({folder.path(), 1 << 30, 1 << 14}).value();
  for (uint64_t n = 1; n <= 30; ++n) ASSERT_TRUE(cache::testing::write_numbered(*store, n));
}

TEST(CacheVerb, ListsChecksAndPrunes) {
  TestFolder folder;
  fill(folder);
  const Outcome listed = run_binary({"cache", "list", "--dir", folder.path()});
  ASSERT_EQ(listed.exit_code, 0) << listed.err;
  EXPECT_NE(listed.out.find("model 0000000000000001 layout 0000000000000002 version 3 base 4: 30 "
                            "blocks, 0 states"),
            std::string::npos)
      << listed.out;
  const Outcome sound = run_binary({"cache", "check", "--dir", folder.path()});
  EXPECT_EQ(sound.exit_code, 0) << sound.err;
  EXPECT_NE(sound.out.find("30 sound records"), std::string::npos) << sound.out;
  {
    std::fstream file(folder.segments()[0], std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(600);
    file.put('\x5a');
  }
  const Outcome damaged = run_binary({"cache", "check", "--dir", folder.path()});
  EXPECT_EQ(damaged.exit_code, 1);
  EXPECT_NE(damaged.out.find("29 sound records"), std::string::npos) << damaged.out;

  EXPECT_EQ(run_binary({"cache", "prune", "--dir", folder.path()}).exit_code, 2);
  const Outcome pruned = run_binary({"cache", "prune", "--dir", folder.path(), "--all"});
  EXPECT_EQ(pruned.exit_code, 0) << pruned.err;
  EXPECT_EQ(folder.segment_bytes(), 0);
  const Outcome none = run_binary({"cache", "list", "--dir", folder.path()});
  EXPECT_EQ(none.out, "0 segments, 0.0 MiB\n");
}

TEST(CacheVerb, ExplainsWhyAPromptIsNotFound) {
  TestFolder folder;
  fill(folder);
  const Outcome found = run_binary({"cache", "explain", model_directory(), "--dir", folder.path(),
                                    "--prompt", "In the beginning"});
  ASSERT_EQ(found.exit_code, 0) << found.err;
  EXPECT_NE(found.out.find(" tokens: 0 of them are kept"), std::string::npos) << found.out;
  EXPECT_EQ(run_binary({"cache", "explain", model_directory(), "--dir", folder.path()}).exit_code,
            2);
  const Outcome nowhere = run_binary({"cache", "list", "--dir", folder.path() + "/none"});
  EXPECT_EQ(nowhere.exit_code, 2);
  EXPECT_NE(nowhere.err.find(folder.path() + "/none"), std::string::npos) << nowhere.err;
  EXPECT_FALSE(std::filesystem::exists(folder.path() + "/none"));
}

}  // namespace
}  // namespace cachalot::apps
