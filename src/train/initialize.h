// The parameters that a run starts from.
// Source  reference/training 6.1 (standard deviation), 10 (mHC gates); what the report leaves open
//         ("[?]") is chosen here:
//         matrices   normal, standard deviation init_std
//         norms      1
//         mHC        gates 0.01; static maps as an ordinary residual: sublayer number s (attention
//                    and FFN counted apart) reads lane s mod hc_mult (0.98, the others 0.02),
//                    writes 1 to every lane, mixes lanes by 0.95 on the diagonal; the head reads
//                    the lanes' mean. Reading different lanes is what makes the lanes differ.
//         the rest   0: sinks, positional biases of compressors, routing biases
//         tables     every token id has num_experts_per_tok different experts, drawn uniformly
// Numerics  a tensor's values depend on the seed and its name alone.
// Threads  pure.
#pragma once

#include <cstdint>

#include "formats/config.h"
#include "train/parameters.h"

namespace cachalot::train {

struct InitConfig {
  double std = 0.006;
  double hc_gate = 0.01;
  uint64_t seed = 0;
};

// `config` is valid (CHECK).
ParameterStore initial_parameters(const formats::ModelConfig& config, const InitConfig& init);

}  // namespace cachalot::train
