# Writes OUT, a source file with the commit of SOURCE ("+" where files differ from it), where that changed: run at each build,
# so that a commit rebuilds that one file.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE
  ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit unknown)
else()
  execute_process(COMMAND git -C ${SOURCE} status --porcelain --untracked-files=no OUTPUT_VARIABLE changed ERROR_QUIET)
  if(changed)
    string(APPEND commit "+")
  endif()
endif()
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT "// Written by cmake/Commit.cmake.
#include \"apps/commit.h\"
namespace cachalot::apps {
const char kCommit[] = \"${commit}\";
}  // namespace cachalot::apps
")
