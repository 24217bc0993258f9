// What is known of a share from a sample of it.
// Source  Wilson's score interval at 95 %; differences of independent shares by the normal law.
// Threads pure.
#pragma once

#include <cstdint>

namespace cachalot::post {

struct Interval {
  double low = 0, high = 1;
};

// Of `correct` out of `count`; count 0: nothing is known.
Interval share_interval(int64_t correct, int64_t count);

}  // namespace cachalot::post
