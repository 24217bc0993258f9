// How the launch of a product lies among those of its stream: how its input comes about, and what
// runs beside it.
#pragma once

#include <optional>

#include "ops/moe/swiglu.h"
#include "ops/norm/rms_norm.h"

namespace cachalot::ops {

struct LaunchOrder {
  // The op that makes x (ops/matmul/matmul.h), as a part of the product: at most one, of a plan
  // that takes it. Constants are the GPU's.
  std::optional<RmsNormParams> norm;
  std::optional<SwigluParams> swiglu;
  // The next kernel reads what this one may read and nothing that this one writes: it starts when
  // the kernels before this one have ended.
  bool lets_next_in = false;
  bool runs_beside = false;  // beside the kernel before, which lets it in
};

}  // namespace cachalot::ops
