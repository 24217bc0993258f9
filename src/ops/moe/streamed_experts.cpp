#include "ops/moe/streamed_experts.h"

#include <string>

#include "ops/matmul/stream_panels.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {

bool StreamedExperts::can_stream(const PackedWeight& w1, const PackedWeight& w2) {
  const auto fits = [](const PackedWeight& w) {
    constexpr int64_t kMaxColumns = 16384;  // four rows lie in shared memory
    return w.format() == WeightFormat::fp4 && w.rows() % 128 == 0 && w.columns() % 128 == 0 &&
           w.columns() <= kMaxColumns;
  };
  return fits(w1) && fits(w2);
}

Result<StreamedExperts> StreamedExperts::create(device::Gpu& gpu, const ExpertWeightsRef& w1,
                                                const ExpertWeightsRef& w3,
                                                const ExpertWeightsRef& w2, int64_t num_experts) {
  CACHALOT_CHECK(can_stream(w1[0], w2[0]));
  const int64_t inner = w1[0].rows(), outer = w2[0].rows();
  const StreamedFp4 gate_up{2 * inner, outer}, down{outer, inner};
  StreamedExperts experts{num_experts, outer, inner, {}, {}, {}};
  const auto room = [&](device::Buffer& buffer, int64_t num_bytes) -> Status {
    CACHALOT_ASSIGN_OR_RETURN(buffer, device::Buffer::create(num_bytes, &gpu));
    return {};
  };
  CACHALOT_RETURN_IF_ERROR(room(experts.gate_up, num_experts * gate_up.num_bytes()));
  CACHALOT_RETURN_IF_ERROR(room(experts.down, num_experts * down.num_bytes()));
  CACHALOT_RETURN_IF_ERROR(
      room(experts.arrivals, kArrivals * static_cast<int64_t>(sizeof(uint64_t))));
  device::Buffer panels, misfits;
  CACHALOT_RETURN_IF_ERROR(room(panels, static_cast<int64_t>(w1[0].bytes().size())));
  CACHALOT_RETURN_IF_ERROR(room(misfits, sizeof(int32_t)));
  device::ExecContext ctx{nullptr, nullptr, device::Isa::reference, &gpu};
  const auto move = [&](const PackedWeight& w, const StreamedFp4& layout, std::byte* to, int half) {
    const auto num_bytes = static_cast<int64_t>(w.bytes().size());
    CACHALOT_CHECK(num_bytes <= panels.size());
    gpu.copy(panels.data(), w.bytes().data(), num_bytes);  // after what the stream still runs
    stream_panels_cuda(ctx, {{StreamedFormat::fp4, layout.rows, layout.columns},
                             w.rows(),
                             panels.data(),
                             0,
                             to,
                             half,
                             reinterpret_cast<int32_t*>(misfits.data())});
  };
  for (int64_t e = 0; e < num_experts; ++e) {
    move(w1[e], gate_up, experts.gate_up.data() + e * gate_up.num_bytes(), 0);
    move(w3[e], gate_up, experts.gate_up.data() + e * gate_up.num_bytes(), 1);
    move(w2[e], down, experts.down.data() + e * down.num_bytes(), -1);
  }
  int32_t found = 0;
  gpu.copy(&found, misfits.data(), sizeof(found));
  gpu.synchronize();
  if (found > 0)
    return unsupported("experts: " + std::to_string(found) + " rows with scales too far apart");
  return experts;
}

void expert_layer(device::ExecContext& ctx, const ExpertLayerRows& p) {
  CACHALOT_CHECK(ctx.gpu != nullptr && p.experts != nullptr);
  CACHALOT_CHECK((p.out != nullptr) + (p.out_bf16 != nullptr) + (p.picks != nullptr) == 1);
  CACHALOT_CHECK((p.x != nullptr) + (p.x_bf16 != nullptr) == 1);
  CACHALOT_CHECK((p.shared_bf16 == nullptr) == (p.out_bf16 == nullptr));
  if (ctx.work != nullptr) {
    ctx.work->narrow +=
        p.rows * p.k * 3 * p.experts->hidden_size * p.experts->moe_intermediate_size;
  }
  if (p.rows > 0) expert_layer_cuda(ctx, p);
}

}  // namespace cachalot::ops
