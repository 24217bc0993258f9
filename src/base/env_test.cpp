#include "base/env.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <string>

#include "base/thread_pool.h"

namespace cachalot {
namespace {

TEST(Env, TheThreadCountIsAWholeNumberWithinBounds) {
  for (const char* text : {"", "0", "3", "1024"}) {
    ASSERT_EQ(::setenv("CACHALOT_THREADS", text, 1), 0);
    EXPECT_TRUE(check_environment().ok()) << text;
    EXPECT_EQ(env_threads(), std::atoi(text)) << text;
  }
  ASSERT_EQ(::setenv("CACHALOT_THREADS", "3", 1), 0);
  EXPECT_EQ(ThreadPool().num_threads(), 3);
  for (const char* text : {"x", "3x", " 3", "-3", "+3", "3.5", "1025", "99999999999999999999"}) {
    ASSERT_EQ(::setenv("CACHALOT_THREADS", text, 1), 0);
    EXPECT_EQ(env_threads(), 0) << text;
    EXPECT_EQ(check_environment().message(),
              "CACHALOT_THREADS: expected a whole number from 0 to 1024, found \"" +
                  std::string(text) + '"');
  }
  ::unsetenv("CACHALOT_THREADS");
  EXPECT_EQ(env_threads(), 0);
  EXPECT_GE(ThreadPool().num_threads(), 1);
}

TEST(Env, AnUnknownLogLevelIsAnErrorAndSilencesNothing) {
  for (const char* text : {"debug", "info", "warning", "error"}) {
    ASSERT_EQ(::setenv("CACHALOT_LOG", text, 1), 0);
    EXPECT_TRUE(check_environment().ok()) << text;
    EXPECT_EQ(env_log_level(), text);
  }
  for (const char* text : {"verbose", "off", "Info", "2"}) {
    ASSERT_EQ(::setenv("CACHALOT_LOG", text, 1), 0);
    EXPECT_EQ(env_log_level(), "info") << text;
    EXPECT_EQ(check_environment().message(),
              "CACHALOT_LOG: expected one of debug, info, warning, error, found \"" +
                  std::string(text) + '"');
  }
  ASSERT_EQ(::setenv("CACHALOT_THREADS", "many", 1), 0);
  EXPECT_NE(check_environment().message().find("CACHALOT_LOG"), std::string::npos);
  EXPECT_NE(check_environment().message().find("\nCACHALOT_THREADS"), std::string::npos);
  ::unsetenv("CACHALOT_THREADS");
  ::unsetenv("CACHALOT_LOG");
  EXPECT_TRUE(check_environment().ok());
}

TEST(Env, EveryVariableHasALineOfHelp) {
  std::set<std::string> names;
  for (const EnvVariable& variable : env_variables()) {
    EXPECT_TRUE(names.insert(variable.name).second) << variable.name;
    EXPECT_GT(std::string(variable.help).size(), 10u);
  }
}

TEST(Env, StateDirectoryFollowsTheSpecification) {
  ASSERT_EQ(::setenv("HOME", "/home/x", 1), 0);
  ASSERT_EQ(::setenv("XDG_STATE_HOME", "/s", 1), 0);
  EXPECT_EQ(env_state_dir(), "/s/cachalot");
  ASSERT_EQ(::setenv("XDG_STATE_HOME", "relative", 1), 0);
  EXPECT_EQ(env_state_dir(), "/home/x/.local/state/cachalot");
  ::unsetenv("XDG_STATE_HOME");
  ::unsetenv("HOME");
  EXPECT_EQ(env_state_dir(), "");
}

TEST(Env, TheCacheHasAFolderAndALimit) {
  ASSERT_EQ(::setenv("HOME", "/home/x", 1), 0);
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(env_cache_dir(), "/home/x/.cache/cachalot");
  ASSERT_EQ(::setenv("XDG_CACHE_HOME", "/c", 1), 0);
  EXPECT_EQ(env_cache_dir(), "/c/cachalot");
  ASSERT_EQ(::setenv("CACHALOT_CACHE_DIR", "/mine", 1), 0);
  EXPECT_EQ(env_cache_dir(), "/mine");
  EXPECT_EQ(env_cache_gib(), 32);
  ASSERT_EQ(::setenv("CACHALOT_CACHE_GIB", "0", 1), 0);
  EXPECT_EQ(env_cache_gib(), 0);
  ASSERT_EQ(::setenv("CACHALOT_CACHE_GIB", "-1", 1), 0);
  EXPECT_EQ(env_cache_gib(), 32);
  EXPECT_TRUE(check_environment().message().starts_with("CACHALOT_CACHE_GIB: "));
  for (const char* name : {"HOME", "XDG_CACHE_HOME", "CACHALOT_CACHE_DIR", "CACHALOT_CACHE_GIB"})
    ::unsetenv(name);
}

TEST(Env, ColorsAreOffOnRequestAndOnDumbTerminals) {
  ASSERT_EQ(::setenv("TERM", "xterm", 1), 0);
  ::unsetenv("NO_COLOR");
  EXPECT_TRUE(env_allows_color());
  ASSERT_EQ(::setenv("NO_COLOR", "1", 1), 0);
  EXPECT_FALSE(env_allows_color());
  ::unsetenv("NO_COLOR");
  ASSERT_EQ(::setenv("TERM", "dumb", 1), 0);
  EXPECT_FALSE(env_allows_color());
}

}  // namespace
}  // namespace cachalot
