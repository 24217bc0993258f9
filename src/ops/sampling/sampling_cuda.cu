// The steps of sampling.h as kernels: where a step needs all of a row, a block takes the row; else
// a block takes a run of its ids, in whose order sums are made. Logarithms are left to the host.
#include <algorithm>
#include <cmath>
#include <limits>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/late_read.h"
#include "device/cuda/launch.cuh"
#include "ops/sampling/exp_nonpositive.h"
#include "ops/sampling/ranked.cuh"
#include "ops/sampling/sampling_impl.h"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;

constexpr int kRunIds = static_cast<int>(RunSum::kRunIds);
constexpr int kThreads = 128;     // of a run
constexpr int64_t kMaxRows = 64;  // at a time
constexpr int kNone = std::numeric_limits<int32_t>::max();
constexpr float kFloatInfinity = std::numeric_limits<float>::infinity();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What becomes of the weights of a row.
enum class Kind : int32_t {
  plain_greedy,  // the largest logit; there are no weights
  greedy,        // the largest after steps 1 to 3
  drawn
};

// A row's parameters, its arrays where the device reads them.
struct Row {
  Kind kind;
  int32_t top_k;  // 0: all
  int32_t num_biases;
  int32_t num_counts;  // 0 without penalties
  int32_t num_top;
  int32_t wants_softmax;
  double temperature, top_p, min_p;
  double repetition_penalty, frequency_penalty, presence_penalty;
  double uniform;
  const TokenBias* biases;
  const TokenCount* counts;  // the step's own tokens among them
  const uint64_t* mask;
};

// What a run of a row comes to.
struct Run {
  double largest;  // after steps 1 to 3
  double sum;      // of weights
  double softmax_sum;
  float largest_logit;
  int32_t best;   // id of `largest`, the lowest
  int32_t fault;  // the first faulty id; kNone
  int32_t count;  // of weights above 0
};

struct TopLogit {
  int32_t id;
  float logit;
};

struct Sampled {
  SamplingFault fault;
  int32_t faulty_id;
  int32_t id;
  int32_t num_allowed;
  double weight, total;  // of its probability
  double softmax_total;
  float logit, largest_logit;
};

struct Rows {
  const float* logits;
  int64_t logits_stride;
  int64_t vocab_size;
  int64_t num_runs;
  const Row* rows;
  double* weights;  // [rows, vocab_size]; logits before step 4
  Run* runs;        // [rows, num_runs]
  Sampled* sampled;
  int32_t* ids;   // or null: of ops that read them at once
  TopLogit* top;  // [rows, top_stride]
  int64_t top_stride;
  uint64_t* allowed;  // [rows, id_set_words]

  __device__ const float* logits_of(int64_t row) const { return logits + row * logits_stride; }
  __device__ double* weights_of(int64_t row) const { return weights + row * vocab_size; }
  __device__ Run* runs_of(int64_t row) const { return runs + row * num_runs; }
};

// Of a value and the lowest id that has it, over the block; every thread gets it.
struct Best {
  double value;
  int32_t id;
  __device__ bool is_before(const Best& other) const {
    return value > other.value || (value == other.value && id < other.id);
  }
};
__device__ Best block_best(Best best, Best* of_warps) {
#pragma unroll
  for (int distance = 16; distance >= 1; distance /= 2) {
    const Best other{__shfl_xor_sync(0xFFFFFFFFu, best.value, distance),
                     __shfl_xor_sync(0xFFFFFFFFu, best.id, distance)};
    if (other.is_before(best)) best = other;
  }
  __syncthreads();  // of_warps may have been read
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  best = of_warps[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) {
    if (of_warps[warp].is_before(best)) best = of_warps[warp];
  }
  return best;
}

__device__ double penalised(const Row& row, const TokenCount& count, double logit) {
  if (count.prompt + count.output > 0)
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
  if (count.output > 0) logit -= row.frequency_penalty * count.output + row.presence_penalty;
  return logit;
}

// A block: a run. Faults, the largest logit, and steps 1 to 3.
__global__ void __launch_bounds__(kThreads) adjust_kernel(const __grid_constant__ Rows p) {
  __shared__ double l[kRunIds];
  __shared__ Best of_warps[kThreads / 32];
  tile::launch_dependents();
  tile::wait_for_producers();
  const Row& row = p.rows[blockIdx.y];
  const auto first = static_cast<int32_t>(blockIdx.x) * kRunIds;
  const int num_ids = static_cast<int>(min(static_cast<int64_t>(kRunIds), p.vocab_size - first));
  const float* logits = p.logits_of(blockIdx.y) + first;
  Best fault{0, kNone}, largest{-kInfinity, kNone};
  for (int i = threadIdx.x; i < num_ids; i += kThreads) {
    const float logit = logits[i];
    l[i] = logit;
    const Best one{static_cast<double>(logit), first + i};
    if (!(logit < kFloatInfinity)) {
      fault = Best{0, min(fault.id, first + i)};
    } else if (one.is_before(largest)) {
      largest = one;
    }
  }
  fault = block_best(fault, of_warps);
  largest = block_best(largest, of_warps);
  Best best = largest;
  if (row.kind != Kind::plain_greedy) {  // the same for all threads
    for (int i = threadIdx.x; i < row.num_biases; i += kThreads) {
      const TokenBias bias = row.biases[i];
      if (bias.id >= first && bias.id < first + num_ids) l[bias.id - first] += bias.bias;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < row.num_counts; i += kThreads) {
      const TokenCount count = row.counts[i];
      if (count.id >= first && count.id < first + num_ids)
        l[count.id - first] = penalised(row, count, l[count.id - first]);
    }
    __syncthreads();
    best = Best{-kInfinity, kNone};
    double* to = p.weights_of(blockIdx.y) + first;
    for (int i = threadIdx.x; i < num_ids; i += kThreads) {
      const int32_t id = first + i;
      const bool is_masked = row.mask != nullptr && (row.mask[id / 64] >> (id % 64) & 1) == 0;
      const Best one{is_masked ? -kInfinity : l[i], id};
      to[i] = one.value;
      if (one.is_before(best)) best = one;
    }
    best = block_best(best, of_warps);
  }
  if (threadIdx.x != 0) return;
  Run& run = p.runs_of(blockIdx.y)[blockIdx.x];
  run.largest = best.value;
  run.best = best.id;
  run.largest_logit = static_cast<float>(largest.value);
  run.fault = fault.id;
}

// A block of any size. The row's best run value by `of_run`, to every thread.
template <typename OfRun>
__device__ Best best_of_runs(const Rows& p, int64_t row, Best* of_warps, const OfRun& of_run) {
  Best best{-kInfinity, kNone};
  for (int64_t r = threadIdx.x; r < p.num_runs; r += blockDim.x) {
    const Best one = of_run(p.runs_of(row)[r]);
    if (one.is_before(best)) best = one;
  }
  return block_best(best, of_warps);
}
__device__ Best largest_of(const Rows& p, int64_t row, Best* of_warps) {
  return best_of_runs(p, row, of_warps, [](const Run& run) { return Best{run.largest, run.best}; });
}
__device__ Best largest_logit_of(const Rows& p, int64_t row, Best* of_warps) {
  return best_of_runs(p, row, of_warps, [](const Run& run) {
    return Best{static_cast<double>(run.largest_logit), 0};
  });
}

__device__ double run_sum(const double* values) {
  double sum = 0;
#pragma unroll 16
  for (int i = 0; i < kRunIds; ++i) sum += values[i];
  return sum;
}

// The first of a run's values, none of which is negative, with which base + sum exceeds the bound,
// sum growing by one value after the other up to there; or kRunIds.
__device__ int first_beyond(const double* values, double base, double bound, double& sum) {
  constexpr int kAtOnce = 16;  // the sums do not wait for the comparisons
  for (int first = 0; first < kRunIds; first += kAtOnce) {
    double sums[kAtOnce];
    double last = sum;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) sums[i] = last += values[first + i];
    if (base + last > bound) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (base + sums[i] > bound) return first + i;
        sum = sums[i];
      }
    }
    sum = last;
  }
  return kRunIds;
}

// The sum and the count of a run's weights w, whose places past the end are zero. By the block.
__device__ void sum_weights(const double* w, Run& run) {
  int count = 0;
  for (int i = threadIdx.x; i < kRunIds; i += kThreads) count += w[i] > 0 ? 1 : 0;
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  atomicAdd(&total, count);
  __syncthreads();
  if (threadIdx.x != 0) return;
  run.sum = run_sum(w);
  run.count = total;
}

// A block: a run. Step 4, and the softmax of the logits themselves.
__global__ void __launch_bounds__(kThreads) weigh_kernel(const __grid_constant__ Rows p) {
  __shared__ double w[kRunIds];
  __shared__ double softmax[kRunIds];
  __shared__ Best of_warps[kThreads / 32];
  tile::launch_dependents();
  tile::wait_for_producers();
  const Row& row = p.rows[blockIdx.y];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRunIds;
  const int num_ids = static_cast<int>(min(static_cast<int64_t>(kRunIds), p.vocab_size - first));
  Run& run = p.runs_of(blockIdx.y)[blockIdx.x];
  const bool wants_softmax = row.wants_softmax != 0;
  if (wants_softmax) {
    const double largest = largest_logit_of(p, blockIdx.y, of_warps).value;
    const float* logits = p.logits_of(blockIdx.y) + first;
    for (int i = threadIdx.x; i < kRunIds; i += kThreads)
      softmax[i] = i < num_ids ? exp_nonpositive(logits[i] - largest) : 0.0;
    __syncthreads();
  }
  if (row.kind == Kind::drawn) {
    const double largest = largest_of(p, blockIdx.y, of_warps).value;
    double* weights = p.weights_of(blockIdx.y) + first;
    for (int i = threadIdx.x; i < kRunIds; i += kThreads) {
      const double weight =
          i < num_ids ? exp_nonpositive((weights[i] - largest) / row.temperature) : 0.0;
      w[i] = weight;
      if (i < num_ids) weights[i] = weight;
    }
    __syncthreads();
    sum_weights(w, run);
  }
  // Beside the sum of weights, which another warp makes.
  if (wants_softmax && threadIdx.x == kThreads - 32) run.softmax_sum = run_sum(softmax);
}

// A block: a run, whose weights have been filtered.
__global__ void __launch_bounds__(kThreads) sum_kernel(const __grid_constant__ Rows p) {
  __shared__ double w[kRunIds];
  tile::launch_dependents();
  tile::wait_for_producers();
  const Row& row = p.rows[blockIdx.y];
  if (row.kind != Kind::drawn || (row.top_p >= 1 && row.min_p <= 0)) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRunIds;
  const int64_t num_ids = min(static_cast<int64_t>(kRunIds), p.vocab_size - first);
  const double* weights = p.weights_of(blockIdx.y) + first;
  for (int i = threadIdx.x; i < kRunIds; i += kThreads) w[i] = i < num_ids ? weights[i] : 0.0;
  __syncthreads();
  sum_weights(w, p.runs_of(blockIdx.y)[blockIdx.x]);
}

// A block: a row. Step 5, on logits.
__global__ void __launch_bounds__(kRankedThreads) top_k_kernel(const __grid_constant__ Rows p) {
  __shared__ RankedShared shared;
  tile::launch_dependents();
  tile::wait_for_producers();
  const Row& row = p.rows[blockIdx.x];
  if (row.kind != Kind::drawn || row.top_k == 0 || row.top_k >= p.vocab_size) return;
  double* weights = p.weights_of(blockIdx.x);
  const auto rank_of = [&](int32_t id) { return ranked_key(weights[id]); };
  const auto is_in = [](int32_t, uint64_t) { return true; };
  const Cut cut =
      select_first(static_cast<int32_t>(p.vocab_size), row.top_k, rank_of, is_in, shared);
  for (int32_t id = threadIdx.x; id < p.vocab_size; id += kRankedThreads) {
    if (!cut.takes(ranked_key(weights[id]), id)) weights[id] = -kInfinity;
  }
}

// The sum of `of_run` over the runs, ascending, to thread 0. By a block of any size; buffer
// [kRunIds].
template <typename OfRun>
__device__ double sum_of_runs(const Rows& p, int64_t row, double* buffer, const OfRun& of_run) {
  double sum = 0;
  for (int64_t first = 0; first < p.num_runs; first += kRunIds) {
    __syncthreads();  // the buffer may have been read
    for (int i = threadIdx.x; i < kRunIds; i += blockDim.x)
      buffer[i] = first + i < p.num_runs ? of_run(p.runs_of(row)[first + i]) : 0.0;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int64_t i = 0; i < kRunIds && first + i < p.num_runs; ++i) sum += buffer[i];
    }
  }
  return sum;
}
__device__ double total_of(const Rows& p, int64_t row, double* buffer) {
  return sum_of_runs(p, row, buffer, [](const Run& run) { return run.sum; });
}

// A block: a row. Steps 6 and 7.
__global__ void __launch_bounds__(kRankedThreads) top_p_kernel(const __grid_constant__ Rows p) {
  __shared__ RankedShared shared;
  __shared__ double sum, enough;
  __shared__ double buffer[kRunIds];
  __shared__ Cut kept;
  tile::launch_dependents();
  tile::wait_for_producers();
  const Row& row = p.rows[blockIdx.x];
  if (row.kind != Kind::drawn || (row.top_p >= 1 && row.min_p <= 0)) return;
  const auto vocab_size = static_cast<int32_t>(p.vocab_size);
  double* weights = p.weights_of(blockIdx.x);
  const bool cuts = row.top_p < 1;
  const double total = total_of(p, blockIdx.x, buffer);
  if (threadIdx.x == 0) {
    sum = 0;
    enough = row.top_p * total;
    kept = Cut::none();
  }
  __syncthreads();
  // The heaviest that are left, many at a time, until they are enough.
  while (cuts && sum < enough) {
    const Cut before = kept;
    const auto rank_of = [&](int32_t id) { return ranked_key(weights[id]); };
    const auto is_in = [&](int32_t id, uint64_t key) {
      return weights[id] > 0 && !before.takes(key, id);
    };
    const int count = take_first(vocab_size, kRankedMost, rank_of, is_in, shared);
    if (count == 0) break;
    if (threadIdx.x == 0) {
      int i = 0;
      for (; i < count && sum < enough; ++i) sum += weights[shared.ids[i]];
      kept = Cut{shared.keys[i - 1], shared.ids[i - 1]};
    }
    __syncthreads();
  }
  for (int32_t id = threadIdx.x; id < vocab_size; id += kRankedThreads) {
    const double weight = weights[id];
    if ((cuts && !kept.takes(ranked_key(weight), id)) || weight < row.min_p) weights[id] = 0;
  }
}

// A block: a row. Step 8.
__global__ void __launch_bounds__(kThreads) draw_kernel(const __grid_constant__ Rows p) {
  __shared__ double w[kRunIds];
  __shared__ Best of_warps[kThreads / 32];
  __shared__ int64_t chosen_run;
  __shared__ int32_t num_drawable;
  tile::launch_dependents();
  tile::wait_for_producers();
  const int64_t row_idx = blockIdx.x;
  const Row& row = p.rows[row_idx];
  const Run* runs = p.runs_of(row_idx);
  const float* logits = p.logits_of(row_idx);
  const int32_t fault = best_of_runs(p, row_idx, of_warps, [](const Run& run) {
                          return Best{0, run.fault};
                        }).id;
  const Best best = largest_of(p, row_idx, of_warps);
  const double largest_logit = largest_logit_of(p, row_idx, of_warps).value;
  int32_t num_allowed = 0;  // that this thread has counted
  if (threadIdx.x == 0) num_drawable = 0;
  Sampled out{};
  out.fault = SamplingFault::none;
  out.faulty_id = out.id = -1;
  if (fault != kNone) {
    out.fault = SamplingFault::not_finite;
    out.faulty_id = fault;
  } else if (best.value == -kInfinity) {
    out.fault = SamplingFault::nothing_to_choose;
  } else if (row.kind != Kind::drawn) {
    out.id = best.id;
    out.num_allowed = 1;
    out.weight = out.total = 1;
  } else {
    const double* weights = p.weights_of(row_idx);
    out.total = total_of(p, row_idx, w);
    // The first thread's alone.
    const double bound = row.uniform * out.total;
    int64_t chosen = p.num_runs;  // the run that holds the token
    double before = 0;            // the sum of the runs before it
    for (int64_t piece = 0; piece < p.num_runs; piece += kRunIds) {
      __syncthreads();
      for (int i = threadIdx.x; i < kRunIds; i += kThreads) {
        const bool is_run = piece + i < p.num_runs;
        w[i] = is_run ? runs[piece + i].sum : 0.0;
        if (is_run) num_allowed += runs[piece + i].count;
      }
      __syncthreads();
      if (threadIdx.x != 0 || chosen < p.num_runs) continue;
      const int beyond = first_beyond(w, 0, bound, before);
      if (beyond < kRunIds) chosen = piece + beyond;
    }
    if (threadIdx.x == 0) chosen_run = chosen;
    atomicAdd(&num_drawable, num_allowed);
    __syncthreads();
    const int64_t first = chosen_run * kRunIds;
    for (int i = threadIdx.x; i < kRunIds; i += kThreads)
      w[i] = first + i < p.vocab_size ? weights[first + i] : 0.0;
    __syncthreads();
    if (threadIdx.x == 0) {
      double sum = 0;
      const int beyond = first_beyond(w, before, bound, sum);
      if (beyond < kRunIds) out.id = static_cast<int32_t>(first) + beyond;
      // The bound was rounded up to the sum of all: the last that could be drawn.
      for (int64_t id = p.vocab_size; out.id < 0;) {
        if (weights[--id] > 0) out.id = static_cast<int32_t>(id);
      }
      out.weight = weights[out.id];
      out.num_allowed = num_drawable;
    }
  }
  if (row.wants_softmax != 0)
    out.softmax_total = sum_of_runs(p, row_idx, w, [](const Run& run) { return run.softmax_sum; });
  if (threadIdx.x != 0) return;
  if (out.fault == SamplingFault::none) {
    out.logit = logits[out.id];
    out.largest_logit = static_cast<float>(largest_logit);
  }
  p.sampled[row_idx] = out;
  if (p.ids != nullptr) p.ids[row_idx] = max(out.id, 0);
}

__global__ void __launch_bounds__(kThreads)
    copy_ids_kernel(const int32_t* from, int64_t count, int32_t* to) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) to[i] = from[i];
}

// A warp: 64 ids of a row.
__global__ void __launch_bounds__(kThreads) allowed_kernel(const __grid_constant__ Rows p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const Row& row = p.rows[blockIdx.y];
  const int64_t num_words = (p.vocab_size + 63) / 64;
  const int64_t word = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (word >= num_words) return;
  uint64_t bits = 0;
  for (int half = 0; half < 2; ++half) {
    const int64_t id = word * 64 + half * 32 + threadIdx.x % 32;
    const bool is_allowed = row.kind == Kind::drawn
                                ? id < p.vocab_size && p.weights_of(blockIdx.y)[id] > 0
                                : id == p.sampled[blockIdx.y].id;
    bits |= static_cast<uint64_t>(__ballot_sync(0xFFFFFFFFu, is_allowed)) << (32 * half);
  }
  if (threadIdx.x % 32 == 0) p.allowed[blockIdx.y * num_words + word] = bits;
}

// A block: a row. The largest logits.
__global__ void __launch_bounds__(kRankedThreads) top_kernel(const __grid_constant__ Rows p) {
  __shared__ RankedShared shared;
  tile::launch_dependents();
  tile::wait_for_producers();
  const Row& row = p.rows[blockIdx.x];
  if (p.sampled[blockIdx.x].fault != SamplingFault::none) return;
  const float* logits = p.logits_of(blockIdx.x);
  TopLogit* top = p.top + blockIdx.x * p.top_stride;
  const auto rank_of = [&](int32_t id) { return ranked_key(static_cast<double>(logits[id])); };
  Cut taken = Cut::none();
  for (int num_taken = 0; num_taken < row.num_top;) {
    const Cut before = taken;
    const auto is_in = [&](int32_t id, uint64_t key) { return !before.takes(key, id); };
    const int count = take_first(static_cast<int32_t>(p.vocab_size),
                                 min(kRankedMost, row.num_top - num_taken), rank_of, is_in, shared);
    for (int i = threadIdx.x; i < count; i += kRankedThreads)
      top[num_taken + i] = {shared.ids[i], logits[shared.ids[i]]};
    if (count == 0) {
      for (int i = num_taken + threadIdx.x; i < row.num_top; i += kRankedThreads)
        top[i] = {-1, 0.0f};
      return;
    }
    taken = Cut{shared.keys[count - 1], shared.ids[count - 1]};
    num_taken += count;
    __syncthreads();  // shared is read
  }
}

bool has_penalties(const SamplingRow& row) {
  return row.repetition_penalty != 1.0 || row.frequency_penalty != 0.0 ||
         row.presence_penalty != 0.0;
}

// The row's counts with the step's own tokens among them.
int32_t place_counts(device::Gpu& gpu, const SamplingRow& row, const TokenCount** counts) {
  auto* placed =
      gpu.table<TokenCount>(static_cast<int64_t>(row.counts.size() + row.drafted.size()));
  auto* end = std::copy(row.counts.begin(), row.counts.end(), placed);
  for (const int32_t id : row.drafted) {
    auto* found = std::find_if(placed, end, [&](const TokenCount& c) { return c.id == id; });
    if (found == end) *end++ = {id, 0, 0};
    ++found->output;
  }
  *counts = gpu.address_on_device(placed);
  return static_cast<int32_t>(end - placed);
}

Row placed(device::Gpu& gpu, const SamplingRow& from, int64_t vocab_size) {
  Row row{};
  const bool is_greedy = from.temperature == 0;
  const bool is_plain = from.biases.empty() && from.mask == nullptr && !has_penalties(from);
  row.kind = !is_greedy ? Kind::drawn : is_plain ? Kind::plain_greedy : Kind::greedy;
  row.top_k = from.top_k;
  row.num_top = static_cast<int32_t>(from.num_top);
  row.wants_softmax = from.wants_model_logprob || from.num_top > 0 ? 1 : 0;
  row.temperature = from.temperature;
  row.top_p = from.top_p;
  row.min_p = from.min_p;
  row.repetition_penalty = from.repetition_penalty;
  row.frequency_penalty = from.frequency_penalty;
  row.presence_penalty = from.presence_penalty;
  row.uniform = sampling_stream(from.seed, from.position).next_unit();
  const auto place = [&](const auto* values, int64_t count) {
    auto* copy = gpu.table<std::remove_cvref_t<decltype(*values)>>(count);
    std::copy_n(values, count, copy);
    return gpu.address_on_device(copy);
  };
  row.num_biases = static_cast<int32_t>(from.biases.size());
  row.biases = place(from.biases.data(), row.num_biases);
  if (has_penalties(from)) row.num_counts = place_counts(gpu, from, &row.counts);
  if (from.mask != nullptr) row.mask = place(from.mask, id_set_words(vocab_size));
  return row;
}

bool has_top(const SampleParams& p) {
  return std::any_of(p.params, p.params + p.rows,
                     [](const SamplingRow& row) { return row.num_top > 0; });
}

// sampled, ids: of the GPU's memory; ids may be null. The other arrays lie in the arena.
Rows launch_rows(device::ExecContext& ctx, const SampleParams& p, Sampled* sampled, int32_t* ids) {
  device::Gpu& gpu = *ctx.gpu;
  const int64_t num_words = id_set_words(p.vocab_size);
  bool has_top_k = false, has_filter = false;
  Row* rows = gpu.table<Row>(p.rows);
  for (int64_t i = 0; i < p.rows; ++i) {
    const SamplingRow& row = p.params[i];
    rows[i] = placed(gpu, row, p.vocab_size);
    has_top_k = has_top_k || row.top_k > 0;
    has_filter = has_filter || row.top_p < 1 || row.min_p > 0;
  }
  Rows k{};
  k.logits = p.logits;
  k.logits_stride = p.logits_stride;
  k.vocab_size = p.vocab_size;
  k.num_runs = (p.vocab_size + kRunIds - 1) / kRunIds;
  k.rows = gpu.on_device(rows);
  k.weights = ctx.arena->allocate<double>(p.rows * p.vocab_size);
  k.runs = ctx.arena->allocate<Run>(p.rows * k.num_runs);
  k.sampled = sampled;
  k.ids = ids;
  k.top_stride = p.top_stride;
  k.top = ctx.arena->allocate<TopLogit>(p.rows * p.top_stride);
  k.allowed = ctx.arena->allocate<uint64_t>(p.allowed == nullptr ? 0 : p.rows * num_words);

  const cuda::Stream& stream = cuda::stream_of(ctx);
  const auto grid = [&](int64_t of_row) {
    cuda::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(of_row), static_cast<unsigned>(p.rows));
    shape.block = kThreads;
    return shape;
  };
  const auto per_row = [&](int threads) {
    cuda::LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(p.rows));
    shape.block = threads;
    return shape;
  };
  if (p.vocab_size > 0) cuda::launch(stream, grid(k.num_runs), adjust_kernel, k);
  if (has_top_k) cuda::launch(stream, per_row(kRankedThreads), top_k_kernel, k);
  if (p.vocab_size > 0) cuda::launch(stream, grid(k.num_runs), weigh_kernel, k);
  if (has_filter && p.vocab_size > 0) {
    cuda::launch(stream, per_row(kRankedThreads), top_p_kernel, k);
    cuda::launch(stream, grid(k.num_runs), sum_kernel, k);
  }
  cuda::launch(stream, per_row(kThreads), draw_kernel, k);
  if (p.allowed != nullptr && num_words > 0) {
    cuda::launch(stream, grid((num_words + kThreads / 32 - 1) / (kThreads / 32)), allowed_kernel,
                 k);
  }
  if (has_top(p)) cuda::launch(stream, per_row(kRankedThreads), top_kernel, k);
  return k;
}

// Of a row without a fault.
struct Softmax {
  double largest, log_total;
  explicit Softmax(const Sampled& from)
      : largest(from.largest_logit), log_total(std::log(from.softmax_total)) {}
  double logprob(double logit) const { return logit - largest - log_total; }
};

SampledToken token_of(const Sampled& from, bool wants_model_logprob) {
  SampledToken token;
  token.fault = from.fault;
  token.faulty_id = from.faulty_id;
  if (from.fault != SamplingFault::none) return token;
  token.id = from.id;
  token.num_allowed = from.num_allowed;
  token.logprob = std::log(from.weight / from.total);
  if (wants_model_logprob) token.model_logprob = Softmax(from).logprob(from.logit);
  return token;
}

void sample_rows(device::ExecContext& ctx, const SampleParams& p) {
  device::Gpu& gpu = *ctx.gpu;
  const device::ArenaScope scope(*ctx.arena);
  const int64_t num_words = id_set_words(p.vocab_size);
  Sampled* sampled = gpu.table<Sampled>(p.rows);
  const Rows k = launch_rows(ctx, p, gpu.address_on_device(sampled), nullptr);
  gpu.copy(sampled, k.sampled, p.rows * static_cast<int64_t>(sizeof(Sampled)));
  TopLogit* top = gpu.table<TopLogit>(has_top(p) ? p.rows * p.top_stride : 0);
  if (has_top(p))
    gpu.copy(top, k.top, p.rows * p.top_stride * static_cast<int64_t>(sizeof(TopLogit)));
  for (int64_t i = 0; i < p.rows; ++i) {
    const Sampled& from = sampled[i];
    p.tokens[i] = token_of(from, p.params[i].wants_model_logprob);
    if (from.fault != SamplingFault::none) continue;
    if (p.allowed != nullptr) {
      gpu.copy(p.allowed + i * num_words, k.allowed + i * num_words,
               num_words * static_cast<int64_t>(sizeof(uint64_t)));
    }
    for (int64_t t = 0; t < p.params[i].num_top; ++t) {
      const TopLogit& one = top[i * p.top_stride + t];
      p.top[i * p.top_stride + t] = {one.id,
                                     one.id < 0 ? -kInfinity : Softmax(from).logprob(one.logit)};
    }
  }
}

// What a Drawing has of a GPU.
struct Drawn {
  int32_t ids[Drawing::kMaxRows];
  Sampled sampled[Drawing::kMaxRows];
};
static_assert(Drawing::kMaxRows <= kMaxRows);

}  // namespace

void sample_cuda(device::ExecContext& ctx, const SampleParams& p) {
  const int64_t num_words = id_set_words(p.vocab_size);
  for (int64_t row = 0; row < p.rows; row += kMaxRows) {
    SampleParams piece = p;
    piece.logits += row * p.logits_stride;
    piece.rows = std::min(kMaxRows, p.rows - row);
    piece.params += row;
    piece.tokens += row;
    if (p.top != nullptr) piece.top += row * p.top_stride;
    if (p.allowed != nullptr) piece.allowed += row * num_words;
    sample_rows(ctx, piece);
  }
}

void copy_ids_cuda(device::ExecContext& ctx, const int32_t* from, int64_t count, int32_t* to) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads));
  shape.block = kThreads;
  cuda::launch(cuda::stream_of(ctx), shape, copy_ids_kernel, from, count, to);
}

int64_t drawn_bytes_cuda() { return sizeof(Drawn); }

void start_drawing_cuda(device::ExecContext& ctx, const SampleParams& p, std::byte* there,
                        std::byte* here) {
  const device::ArenaScope scope(*ctx.arena);
  auto* const drawn = reinterpret_cast<Drawn*>(there);
  launch_rows(ctx, p, drawn->sampled, drawn->ids);
  cuda::start_read(ctx, here, there, drawn_bytes_cuda());
}

void finish_drawing_cuda(device::ExecContext& ctx, const std::byte* here,
                         std::span<const char> wants_model_logprob,
                         std::span<SampledToken> tokens) {
  cuda::wait_for_read(ctx);
  const Sampled* const sampled = reinterpret_cast<const Drawn*>(here)->sampled;
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = token_of(sampled[i], wants_model_logprob[i] != 0);
}

}  // namespace cachalot::ops
