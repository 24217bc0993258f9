#include "data/token_source.h"

#include <algorithm>

namespace cachalot::data {

Status TokenSource::read_weights(int64_t, int64_t, std::span<float> out) const {
  std::ranges::fill(out, 1.0f);
  return {};
}

}  // namespace cachalot::data
