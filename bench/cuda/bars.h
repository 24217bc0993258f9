// What the table of kernels is compared with.
#pragma once

#include <string_view>

namespace cachalot::bench {

struct Bar {
  std::string_view kernel, shape;  // of a Row
  std::string_view published;      // microseconds of the best public kernel
  std::string_view bar;            // microseconds that we ask of ours
};

// Empty cells where nothing is known of the row.
Bar bar_of(std::string_view kernel, std::string_view shape);

}  // namespace cachalot::bench
