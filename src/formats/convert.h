// Checkpoint to checkpoint: precisions, name families, shardings. Streams tensor by tensor; memory
// is bounded by the largest quantised tensor's bytes (a float tensor passes in stripes).
// Source  reference/forward 7.2 (which tensor becomes what), 7.3, 7.4.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/block_quantize.h"
#include "formats/name_map.h"

namespace cachalot::formats {

enum class ConvertPrecision {
  keep,      // every tensor's bytes as they are
  f32,       // everything dequantised to F32
  bf16,      // everything dequantised to BF16, but for what the public files keep in F32
  quantized  // the public layout: FP8 linears, FP4 experts, BF16, F32; FP8 and FP4 stay as they are
};
enum class ExpertTarget { keep, fp4, fp8 };

// Beside a checkpoint that was dequantised: the e8m0 scales that its weights had, by canonical
// name, in a safetensors file. They make the way back give the original's bytes. Loaders take every
// *.safetensors of a directory for weights, so this one ends otherwise.
inline constexpr char kScalesFile[] = "quantization_scales.e8m0";

struct ConvertOptions {
  ConvertPrecision precision = ConvertPrecision::keep;
  // Recasts routed experts that are quantised in the source (with precision keep): FP4 to FP8 tiles
  // as the official converter does (tile scale = largest of its scales / 64), refused where that
  // would lose bits; and back.
  ExpertTarget experts = ExpertTarget::keep;
  NameFamily names = NameFamily::official;
  int64_t max_shard_bytes = int64_t{5'000'000'000};
  // A checkpoint of the same shapes whose scales are preferred (formats/block_quantize.h). Empty:
  // the scales that an earlier conversion to floats left beside the source (kScalesFile), if any.
  std::string like;
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;  // may be empty
};

struct ConvertSummary {
  int64_t num_tensors = 0;
  int64_t num_files = 0;
  int64_t total_bytes = 0;
  int64_t copied_tensors = 0;  // bytes unchanged
  int64_t rounded_values = 0;  // floats that a narrower float does not hold exactly
  QuantizeCounts blocks;       // of the tensors that were quantised
  // Where transformers' names were asked for: what it does not read of the result.
  std::vector<int64_t> unknown_ratios;
  bool is_quantised_there = false;  // it reads quantised weights under the public names alone
};

// Writes the tensors, config.json (the source's, with what the conversion changed) and copies of
// the other text files of the directory (tokenizer and generation settings); with transformers'
// names also what it needs and the source lacks (transformers_files.h). Official names come with
// the public keys of config.json, whichever the source has. `destination` is made
// if missing and must not hold a model. The configuration's tensors must all be in the source (MTP
// blocks may be missing); tensors that it does not know are copied.
Result<ConvertSummary> convert_checkpoint(const std::string& source, const std::string& destination,
                                          const ConvertOptions& options);

}  // namespace cachalot::formats
