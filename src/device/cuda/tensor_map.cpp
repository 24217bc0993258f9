#include "device/cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "base/check.h"
#include "device/cuda/error.h"

namespace cachalot::device::cuda {
namespace {

// The driver's, which is not linked.
PFN_cuTensorMapEncodeTiled_v12000 find_encode() {
  constexpr unsigned kVersion = 12000;
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  CACHALOT_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, kVersion,
                                                       cudaEnableDefault, &result));
  CACHALOT_CHECK(result == cudaDriverEntryPointSuccess);
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

}  // namespace

CUtensorMap map_bf16_rows(const void* rows, int64_t num_rows, int64_t num_columns,
                          int64_t row_stride, int box_rows) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = find_encode();
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(num_columns),
                              static_cast<cuuint64_t>(num_rows)};
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(row_stride) * 2};
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[2] = {1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(rows), size, stride_bytes,
             box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CACHALOT_CHECK(result == CUDA_SUCCESS);
  return map;
}

}  // namespace cachalot::device::cuda
