// The added tokens that tell DeepSeek-V4's tokenizer from V3's, whose vocabulary, merges and splits
// it keeps.
// Source   reference/chat 1.4; equal to the tokenizer.json published for V4, flags included (V3
//          marks <|EOT|> special, V4 does not).
#pragma once

#include <vector>

#include "text/tokenizer_spec.h"

namespace cachalot::text {

// All 1,283 of them, those of V3 included, by id; Tokenizer::add_tokens on a loaded V3 file gives
// V4's tokenizer.
std::vector<AddedToken> v4_added_tokens();

}  // namespace cachalot::text
