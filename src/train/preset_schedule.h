// How a preset is trained where the configuration does not say: the defaults of schedule, batch,
// sequence, initialisation, evaluation and checkpoints that fit its size and its budget. V4's own
// stay for the published models, and where no preset is named.
// Source  nano: models/nano/README.md, scaled. mini: between nano's and reference/training 6.
// Threads  pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "train/train_config.h"

namespace cachalot::train {

// The budget of tokens for a preset and a corpus of this many: about four passes, within what is
// worth it for the preset, but never more than 20 passes. 0: the preset has none, since it
// is not for one machine.
int64_t suggested_budget(std::string_view preset, int64_t corpus_tokens);

// total_tokens: of the configuration, 0 where it gives none; batch_tokens likewise.
void fit_to_preset(std::string_view preset, int64_t total_tokens, int64_t batch_tokens,
                   TrainConfig* config);

}  // namespace cachalot::train
