// The commit that the program was built from; "+" where files differ from it. Written at each
// build by cmake/Commit.cmake.
#pragma once

namespace cachalot::apps {

extern const char kCommit[];

}  // namespace cachalot::apps
