#include "cuda/matrix_rate.h"
#include "cuda/read_rate.h"
#include "device/gpu.h"

namespace cachalot::bench {

Result<double> gpu_read_rate(int ordinal) {
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<device::Gpu> gpu, device::Gpu::open(ordinal));
  return 0.0;
}

Result<MatrixRates> gpu_matrix_rates(int ordinal, double) {
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<device::Gpu> gpu, device::Gpu::open(ordinal));
  return MatrixRates{};
}

}  // namespace cachalot::bench
