#include "device/cuda/launch_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "device/cuda/error.h"

namespace cachalot::device::cuda {
namespace {

constexpr size_t kMaxLaunches = 512;  // the device runs so many while the host adds the next
constexpr size_t kMaxKnown = 256;
constexpr size_t kParamAlignment = 16;

bool is_same(const dim3& a, const dim3& b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

// But for the grid.
bool is_same_kernel(const LaunchList::Launch& a, const LaunchList::Launch& b) {
  return a.kernel == b.kernel && a.block == b.block && a.smem_bytes == b.smem_bytes &&
         a.is_programmatic == b.is_programmatic;
}

}  // namespace

bool LaunchList::Launches::has_kernels_of(const Launches& other) const {
  return std::ranges::equal(records, other.records, [](const Record& a, const Record& b) {
    return is_same_kernel(a.launch, b.launch);
  });
}

// Records of one kernel lie at the same places in both.
bool LaunchList::Launches::has_arguments_of(const Launches& other, size_t i) const {
  const Record& record = records[i];
  return is_same(record.launch.grid, other.records[i].launch.grid) &&
         std::memcmp(bytes.data() + record.begin, other.bytes.data() + record.begin,
                     record.end - record.begin) == 0;
}

void LaunchList::add(const Launch& launch, std::span<const Param> params) {
  Record record{launch, launches_.params.size(), params.size(), launches_.bytes.size(), 0};
  for (const Param& param : params) {
    const size_t begin = launches_.bytes.size();
    launches_.params.push_back(begin);
    launches_.bytes.resize(begin + (param.num_bytes + kParamAlignment - 1) / kParamAlignment *
                                       kParamAlignment);
    std::memcpy(launches_.bytes.data() + begin, param.value, param.num_bytes);
  }
  record.end = launches_.bytes.size();
  launches_.records.push_back(record);
  if (launches_.records.size() == limit_) when_full_();
}

void LaunchList::run(const Stream& stream) {
  if (launches_.records.empty()) return;
  limit_ = launches_.records.size() == limit_ ? std::min(2 * limit_, kMaxLaunches) : kFirstLimit;
  ++num_runs_;
  const uint64_t list_hash = hash();
  const auto found = std::ranges::find(known_, list_hash, &Known::hash);
  if (found == known_.end()) {
    for (const Record& record : launches_.records) launch(stream, record);
    forget_oldest();
    known_.push_back({list_hash, num_runs_, {}, {}, {}, {}});
  } else {
    // Both take over the launches.
    if (found->graph.get() == nullptr || !found->launches.has_kernels_of(launches_)) {
      capture(stream, *found);
    } else {
      update(*found);
      ++num_replays_;
    }
    found->last_run = num_runs_;
    found->graph.launch(stream);
  }
  launches_.records.clear();
  launches_.params.clear();
  launches_.bytes.clear();
}

uint64_t LaunchList::hash() const {
  uint64_t hash = 0xCBF29CE484222325;
  const auto add = [&](uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15;
    hash ^= hash >> 32;
  };
  for (const Record& record : launches_.records) {
    const Launch& launch = record.launch;
    add(reinterpret_cast<uintptr_t>(launch.kernel));
    add(static_cast<uint64_t>(launch.smem_bytes) << 16 ^ static_cast<uint64_t>(launch.block) << 1 ^
        static_cast<uint64_t>(launch.is_programmatic));
  }
  return hash;
}

void LaunchList::forget_oldest() {
  if (known_.size() < kMaxKnown) return;
  known_.erase(std::ranges::min_element(known_, {}, &Known::last_run));
}

void** LaunchList::arguments(const Record& record) {
  arguments_.clear();
  for (size_t i = 0; i < record.num_params; ++i)
    arguments_.push_back(launches_.bytes.data() + launches_.params[record.first_param + i]);
  return arguments_.data();
}

// An op that came later may have asked for less of the same kernel.
void LaunchList::allow_smem(const Launch& launch) {
  if (launch.smem_bytes <= kSmemWithoutAsking) return;
  CACHALOT_CUDA_CHECK(cudaFuncSetAttribute(launch.kernel,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(launch.smem_bytes)));
}

void LaunchList::launch(const Stream& stream, const Record& record) {
  allow_smem(record.launch);
  launch_kernel(stream, record.launch, arguments(record));
}

void launch_kernel(const Stream& stream, const LaunchList::Launch& launch, void** arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = launch.grid;
  config.blockDim = dim3(static_cast<unsigned>(launch.block));
  config.dynamicSmemBytes = static_cast<size_t>(launch.smem_bytes);
  config.stream = stream.get();
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = launch.is_programmatic ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelExC(&config, launch.kernel, arguments);
  if (error == cudaSuccess) return;
  const char* name = "a kernel";
  cudaFuncGetName(&name, launch.kernel);
  const dim3& grid = launch.grid;
  CACHALOT_CHECK_MSG(
      false, fmt::format("{}: grid {} x {} x {}, {} threads, {} bytes: {}", name, grid.x, grid.y,
                         grid.z, launch.block, launch.smem_bytes, cudaGetErrorString(error)));
}

void LaunchList::capture(const Stream& stream, Known& known) {
  known.nodes.clear();
  CACHALOT_CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  for (const Record& record : launches_.records) {
    launch(stream, record);
    // What the stream waits for now is the node of this launch.
    cudaStreamCaptureStatus status;
    const cudaGraphNode_t* last = nullptr;
    const cudaGraphEdgeData* edges = nullptr;
    size_t count = 0;
    CACHALOT_CUDA_CHECK(
        cudaStreamGetCaptureInfo(stream.get(), &status, nullptr, nullptr, &last, &edges, &count));
    CACHALOT_CHECK(count == 1);
    known.nodes.push_back(*last);
  }
  cudaGraph_t graph = nullptr;
  CACHALOT_CUDA_CHECK(cudaStreamEndCapture(stream.get(), &graph));
  known.captured = GraphTemplate(graph);
  cudaGraphExec_t instance = nullptr;
  CACHALOT_CUDA_CHECK(cudaGraphInstantiate(&instance, graph, 0));
  known.graph = Graph(instance);
  std::swap(known.launches, launches_);
}

void LaunchList::update(Known& known) {
  for (size_t i = 0; i < known.nodes.size(); ++i) {
    if (known.launches.has_arguments_of(launches_, i)) continue;
    const Record& record = launches_.records[i];
    allow_smem(record.launch);
    cudaKernelNodeParams params = {};
    params.func = const_cast<void*>(record.launch.kernel);
    params.gridDim = record.launch.grid;
    params.blockDim = dim3(static_cast<unsigned>(record.launch.block));
    params.sharedMemBytes = static_cast<unsigned>(record.launch.smem_bytes);
    params.kernelParams = arguments(record);
    CACHALOT_CUDA_CHECK(
        cudaGraphExecKernelNodeSetParams(known.graph.get(), known.nodes[i], &params));
    ++num_updates_;
  }
  std::swap(known.launches, launches_);
}

}  // namespace cachalot::device::cuda
