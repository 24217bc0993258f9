// What the defined order of sums over tokens costs (reference/infrastructure 5.3). An op whose sums
// over tokens have one order lets threads cut outputs, never tokens. Beside it the same kernels
// with the tokens cut among the threads, each adding to sums of its own that are folded at the end:
// what a step could do if bits were free to depend on the number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/exec_context.h"

namespace cachalot::bench {

struct OrderedOp {
  std::string name;
  int calls;  // in a step of nano, 4 sequences of 512 tokens
  int64_t tokens;
  int64_t unit;               // tokens that stay together: 1, or a sequence's
  std::vector<int64_t> sums;  // floats of each array that tokens share
  // Adds the tokens [first, first + count) to arrays of those sizes.
  std::function<void(device::ExecContext&, int64_t first, int64_t count, float* const* sums)> add;
};

// Attention, the indexer's loss, weight gradients and norms of nano.
std::vector<OrderedOp> make_ordered_ops();

// One op both ways.
class OrderCase {
 public:
  OrderCase(device::ExecContext& ctx, OrderedOp op);
  const OrderedOp& op() const { return op_; }
  void ordered();
  void cut();

 private:
  struct Worker {
    ThreadPool pool{1};
    device::Arena arena;
    std::vector<std::vector<float>> sums;
  };
  device::ExecContext& ctx_;
  OrderedOp op_;
  std::vector<std::vector<float>> sums_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace cachalot::bench
