// The record of one forward pass, run backward: which arrays have gradients, and the nodes in the order they ran.
// Source  infrastructure.md 7.4; design.md 2 (Autograd).
//
// A gradient belongs to storage, not to a name: grad(p) of any element of an array lies at the same place in the array's gradient,
// so views, strided parts and arrays that an op updates in place need no handles. Values must stay where they are, unchanged except
// by recorded in-place ops, from the forward pass to the end of backward(): model code takes them from the step's arena and opens no
// ArenaScope while a tape listens.
// Memory  gradients are zero when first asked for, and are given back once the node that made the array has run backward.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "ops/matmul/packed_weight.h"

namespace cachalot::autograd {

// What backward needs of a matrix that the forward pass reads packed. Borrowed.
struct MatrixGrad {
  float* grad;     // [rows, columns] of the packed matrix, added to; null: frozen
  int64_t stride;  // floats from row to row of grad
  const ops::PackedWeight* transposed;  // W^T at the values the forward pass multiplied by
};

class Tape {
 public:
  Tape() = default;
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // An array of the forward pass whose gradient the tape keeps. Arrays do not overlap (CHECK).
  void add_storage(const float* values, int64_t count);
  // A parameter: `grad` is the caller's, added to.
  void add_parameter(const float* values, int64_t count, float* grad);
  void add_matrix(const ops::PackedWeight* weight, const MatrixGrad& grad);

  // The gradient at this element; null for memory that has none (constants, frozen parameters).
  float* grad(const float* values);
  // The same, but null also where nothing has been added to that array yet: a node whose outputs have no gradient has nothing to do.
  float* existing_grad(const float* values);
  const MatrixGrad* matrix(const ops::PackedWeight* weight) const;  // null: none

  // Rows that were encoded from values and take their gradient: `rows` is the first encoded byte.
  void add_encoded(const std::byte* rows, const float* values);
  const float* values_of(const std::byte* rows) const;  // null: none

  void record(std::function<void()> backward);
  // Runs the nodes, last first, once.
  void backward();
  int64_t num_nodes() const { return static_cast<int64_t>(nodes_.size()); }

 private:
  friend class SegmentScope;
  using Nodes = std::vector<std::function<void()>>;
  struct Storage {
    int64_t count;
    float* grad;  // null: not asked for yet
    std::unique_ptr<float[]> owned;
    int64_t num_nodes;  // when it was added: the nodes before it know nothing of it
  };
  Storage* find(const float* values, int64_t* offset);

  std::map<const float*, Storage, std::greater<>> storages_;
  std::unordered_map<const ops::PackedWeight*, MatrixGrad> matrices_;
  std::unordered_map<const std::byte*, const float*> encoded_;
  Nodes nodes_;
  std::vector<Nodes>* segments_ = nullptr;  // where a SegmentScope collects
};

// For ops that run segment by segment: what is recorded in the scope becomes one node, whose backward takes the segments in their
// order, so that sums over rows into a parameter's gradient ascend there too. Without a tape it does nothing. Scopes do not nest.
class SegmentScope {
 public:
  explicit SegmentScope(Tape* tape);
  ~SegmentScope();
  SegmentScope(const SegmentScope&) = delete;
  SegmentScope& operator=(const SegmentScope&) = delete;
  void next();  // before each segment

 private:
  Tape* tape_;
  std::vector<Tape::Nodes> segments_;
};

// What a recorded op runs on: style.md 3. Without a tape an op is the plain op.
struct Context {
  Context(device::ExecContext& exec, Tape* tape = nullptr)
      : exec(exec), tape(tape) {}  // NOLINT: an op's caller has either
  device::ExecContext& exec;
  Tape* tape;
};

}  // namespace cachalot::autograd
