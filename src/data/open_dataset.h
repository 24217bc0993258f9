// A dataset from a path of any format that there is a source for.
// Formats  auto tells by the name: .json a corpus list (tokenize_corpus.h), .tokens one shard, .bin
//          a file of nanoGPT's, anything else a prefix of Megatron's PREFIX.idx and PREFIX.bin.
// Errors   invalid_argument: an unknown format; the source's, which name the file.
#pragma once

#include <string>
#include <string_view>

#include "data/dataset.h"

namespace cachalot::data {

// format: "auto", "cachalot", "nanogpt" or "megatron". Ids of foreign formats must be below
// vocab_size.
Result<Dataset> open_dataset(const std::string& name, const std::string& path,
                             std::string_view format, int64_t vocab_size);

}  // namespace cachalot::data
