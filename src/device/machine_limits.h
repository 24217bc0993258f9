// What this machine can do at most, measured now: the denominators of shares in benchmarks and
// training runs.
// Numerics  timings, the best of 25: what nothing disturbed. No result of a model depends on them.
//           Two threads of a Zen 3 take 13 ms for a peak (190 ms for the reference level's, a chain
//           of the C library's fma) and 1.3 s and 256 MB for the bandwidth.
// Errors    none; the machine must have `isa` (machine_isas()).
// Threads   one caller at a time on `pool`; what else the machine does lowers the result.
// Source    our own.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "device/isa.h"

namespace cachalot::device {

// Independent chains of fused multiply-adds on registers, nothing loaded: FLOP/s of all the pool's
// threads together.
double measure_f32_peak(ThreadPool& pool, Isa isa);
// The same for vdpbf16ps where the level has it, else f32's: bf16 math then runs on f32 lanes.
double measure_bf16_peak(ThreadPool& pool, Isa isa);
// Bytes/s of all threads reading `bytes` again and again: by default more than a cache holds, so
// memory's; of fewer, those of the caches where they stay.
inline constexpr int64_t kUncachedBytes = int64_t{256} << 20;
double measure_read_bandwidth(ThreadPool& pool, int64_t bytes = kUncachedBytes);

// One thread's part: `steps` rounds of its chains; returns the floating-point operations done.
// *sink keeps them alive.
using PeakLoop = double (*)(int64_t steps, float* sink);
double f32_peak_avx2(int64_t steps, float* sink);
double f32_peak_avx512(int64_t steps, float* sink);
double bf16_peak_avx512bf16(int64_t steps, float* sink);

}  // namespace cachalot::device
