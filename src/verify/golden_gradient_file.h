// The gradients of a golden set: whole, or as digests (verify/digest.h).
// Format  grads.safetensors: one fp32 tensor a parameter, public names. Where there is none,
//         grad_digests.safetensors (or .zst): likewise, f64 [1 + n]: the gradient's norm, then n
//         sums of it with signs. A parameter that the file does not name has the gradient 0, as the
//         indexer's have from the language-model loss.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/safetensors.h"
#include "train/parameters.h"

namespace cachalot::verify {

struct GradientDistance {
  double error = 0;    // norm of the difference; of digests, its estimate
  double norm = 0;     // of the golden gradient
  std::string detail;  // of whole gradients, the worst element
};

class GoldenGradientFile {
 public:
  // Null where the directory holds neither file.
  static Result<std::unique_ptr<GoldenGradientFile>> open(const std::string& directory);

  // Of the parameter's gradient. Error: another shape.
  Result<GradientDistance> distance(const train::Parameter& parameter) const;

  // A gradient that differs from the parameter's by rounding alone: the golden one, or where only a
  // digest is known, the parameter's own moved as far as the golden one is away.
  Result<std::vector<float>> another(const train::Parameter& parameter) const;

 private:
  GoldenGradientFile(formats::SafetensorsFile file, bool whole)
      : file_(std::move(file)), whole_(whole) {}

  formats::SafetensorsFile file_;
  bool whole_;
};

}  // namespace cachalot::verify
