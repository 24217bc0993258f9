// The DeepSeek-V3 and V4 tokenizers for tests, from v3-merges.bin.zst, and this folder's other
// compressed files. Needs libzstd.
#pragma once

#include <string>

#include "text/tokenizer.h"

namespace cachalot::text {

// A file of this folder, unpacked. It is one frame that says its size.
std::string read_zst(const std::string& name);

// A tokenizer.json equal in content to the published V3 file, its 818 added tokens included. Merges
// as "left right" strings, or as pairs.
std::string v3_tokenizer_json(bool merges_as_pairs = false);

Tokenizer v3_tokenizer();
Tokenizer v4_tokenizer();

}  // namespace cachalot::text
