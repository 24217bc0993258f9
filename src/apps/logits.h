// `cachalot logits`: token ids in, the logits of every position out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace cachalot::apps {

struct LogitsOptions {
  std::string model;
  std::string ids;              // safetensors with input_ids [t] or [b, t], I32 or I64
  std::string out;              // safetensors with logits [b, t, vocab_size] F32
  std::vector<int64_t> chunks;  // tokens that run at once, in order; empty: 512 each
  std::string precision = "auto";
  std::string device = "cpu";
  int threads = 0;
};

// Sequences run one after the other, each through a cache of its own; the output is the same for
// any chunks.
// Errors  name the file and the tensor, the expected dtype, shape, id range or sum of chunks, and
//         the found one.
Status write_logits(const LogitsOptions& options);

}  // namespace cachalot::apps
