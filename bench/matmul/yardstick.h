// The matrix product of another library, for comparison.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace cachalot::bench {

class Yardstick {
 public:
  virtual ~Yardstick() = default;
  virtual std::string name() const = 0;
  virtual void set_num_threads(int num_threads) = 0;
  virtual bool has_native_bf16() const = 0;
  // A ready product Y[m, n] = X[m, k] W[n, k]^T with `copies` sets of packed weights: calling it
  // with i computes with copy i. bf16: weights, x and y are bf16.
  virtual std::function<void(int)> product(bool bf16, int64_t m, int64_t n, int64_t k,
                                           int copies) = 0;
};

// oneDNN, its weights packed as it likes best.
std::unique_ptr<Yardstick> make_onednn();

}  // namespace cachalot::bench
