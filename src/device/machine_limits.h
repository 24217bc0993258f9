// What this machine can do at most, measured now (some 30 ms each): the denominators of shares in benchmarks and training runs.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "device/isa.h"

namespace cachalot::device {

// Independent chains of fused multiply-adds on registers, nothing loaded: FLOP/s of all the pool's threads together.
double measure_f32_peak(ThreadPool& pool, Isa isa);
// The same for vdpbf16ps where the level has it, else f32's: bf16 math then runs on f32 lanes.
double measure_bf16_peak(ThreadPool& pool, Isa isa);
// Bytes/s of all threads reading memory that no cache holds.
double measure_read_bandwidth(ThreadPool& pool);

// One thread's part: `steps` rounds of kPeakChains chains; returns floating-point operations done. *sink keeps them alive.
using PeakLoop = double (*)(int64_t steps, float* sink);
double f32_peak_avx2(int64_t steps, float* sink);
double f32_peak_avx512(int64_t steps, float* sink);
double bf16_peak_avx512bf16(int64_t steps, float* sink);

}  // namespace cachalot::device
