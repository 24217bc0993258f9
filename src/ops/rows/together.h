// Small ops over a step's rows that do not read each other's results: one launch on a GPU. On a
// CPU, and where a GPU's kernels do not fit, an op runs at its call.
// Source, numerics  the ops': the same bits.
// Threads as the ops. What params name stays until run().
#pragma once

#include <variant>
#include <vector>

#include "ops/compressor/compressor.h"
#include "ops/compressor/entry_rows.h"
#include "ops/hyper/hyper_boundary.h"
#include "ops/moe/router.h"
#include "ops/moe/swiglu.h"
#include "ops/norm/rms_norm.h"
#include "ops/quant/encode_rows.h"
#include "ops/rope/head_rows.h"

namespace cachalot::ops {

// head_rows with one head a row, then encode_kv_rows of them.
struct KvRowsParams {
  HeadRowsParams heads;
  tensor::KvFormat format;
  tensor::RowBlocks to;
};

// x [n] *= factor, then rounded to bf16 where `round`.
struct ScaleParams {
  float* x;
  int64_t n;
  float factor;
  bool round;
};

struct CompleteEntries {
  EntryRowsParams p;
};
struct StoreCompressorRows {
  EntryRowsParams p;
};

using RowOp = std::variant<RmsNormParams, HeadRowsParams, KvRowsParams, ScaleParams,
                           CompleteEntries, StoreCompressorRows, StoreRecentParams, RouterParams,
                           SwigluParams, HyperCombParams>;

class Together {
 public:
  // beside: products that have just been launched (MatmulParams::lets_next_in), whose results none
  // of the ops reads. Of the first launch alone.
  explicit Together(device::ExecContext& ctx, bool beside = false) : ctx_(ctx), beside_(beside) {}
  Together(const Together&) = delete;
  Together& operator=(const Together&) = delete;
  ~Together() { run(); }

  void add(const RowOp& op);
  // What has been added.
  void run();

 private:
  device::ExecContext& ctx_;
  bool beside_;
  std::vector<RowOp> ops_;
};

}  // namespace cachalot::ops
