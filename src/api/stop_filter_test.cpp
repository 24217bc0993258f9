// Stop strings against every way to cut a text.
#include "api/stop_filter.h"

#include <gtest/gtest.h>

namespace cachalot::api {
namespace {

// The text in pieces of these sizes, and what came before each.
std::string read(StopFilter filter, std::string_view text, size_t piece) {
  std::string out;
  for (size_t at = 0; at < text.size() && !filter.is_stopped(); at += piece)
    filter.push(text.substr(at, piece), out);
  if (!filter.is_stopped()) filter.finish(out);
  return out;
}

TEST(StopFilter, FindsWhatIsCutAnywhere) {
  for (size_t piece = 1; piece < 12; ++piece) {
    EXPECT_EQ(read(StopFilter({"END"}), "a EN b END c", piece), "a EN b ");
    EXPECT_EQ(read(StopFilter({"END"}, true), "a EN b END c", piece), "a EN b END");
    EXPECT_EQ(read(StopFilter({"aab"}), "aaaab", piece), "aa");
    EXPECT_EQ(read(StopFilter({"END", "STOP"}), "no end EN", piece), "no end EN");
    EXPECT_EQ(read(StopFilter(), "all", piece), "all");
  }
}

TEST(StopFilter, HoldsNoMoreThanMayBegin) {
  StopFilter filter({"END"});
  std::string out;
  filter.push("a E", out);
  EXPECT_EQ(out, "a ");
  filter.push("x", out);
  EXPECT_EQ(out, "a Ex");
  filter.push("EN", out);
  filter.push("D", out);
  EXPECT_EQ(out, "a Ex");
  EXPECT_TRUE(filter.is_stopped());
  EXPECT_EQ(filter.stopped_by(), "END");
}

}  // namespace
}  // namespace cachalot::api
