#include "ops/rows/together.h"

#include "base/check.h"
#include "ops/quant/act_quant.h"
#include "ops/rows/rows.h"
#include "ops/rows/together_impl.h"

namespace cachalot::ops {
namespace {

struct RunAlone {
  device::ExecContext& ctx;

  void operator()(const RmsNormParams& p) const { rms_norm(ctx, p); }
  void operator()(const HeadRowsParams& p) const { head_rows(ctx, p); }
  void operator()(const KvRowsParams& p) const {
    head_rows(ctx, p.heads);
    encode_kv_rows(
        ctx, {p.heads.x, p.heads.rows, p.heads.head_dim, p.heads.row_stride, p.heads.rope_dim},
        p.format, p.to);
  }
  void operator()(const ScaleParams& p) const {
    scale(ctx, p.x, p.n, p.factor);
    if (p.round) round_bf16(ctx, {p.x, 1, p.n, p.n});
  }
  void operator()(const CompleteEntries& op) const { complete_entries(ctx, op.p); }
  void operator()(const StoreCompressorRows& op) const { store_compressor_rows(ctx, op.p); }
  void operator()(const StoreRecentParams& p) const { store_recent_rows(ctx, p); }
  void operator()(const RouterParams& p) const { route(ctx, p); }
  void operator()(const SwigluParams& p) const { swiglu(ctx, p); }
  void operator()(const HyperCombParams&) const { CACHALOT_CHECK(false); }  // a GPU's alone
};

}  // namespace

void Together::add(const RowOp& op) {
  if (ctx_.gpu == nullptr || !together_cuda_fits(op)) {
    if (ops_.empty()) beside_ = false;
    return std::visit(RunAlone{ctx_}, op);
  }
  ops_.push_back(op);
  if (ops_.size() == kMaxTogether) run();
}

void Together::run() {
  if (ops_.empty()) return;
  together_cuda(ctx_, ops_, beside_);
  beside_ = false;
  ops_.clear();
}

}  // namespace cachalot::ops
