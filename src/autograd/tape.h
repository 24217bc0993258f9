// The record of one forward pass, run backward: which arrays have gradients, and the ops in the
// order they ran.
// Source  reference/infrastructure 7.4; design.md 2 (Autograd).
//
// A gradient belongs to storage, not to a name: grad(p) of any element of an array lies at the same
// place in the array's gradient, so views, strided parts and arrays that an op updates in place
// need no handles. Values must stay where they are, unchanged except by recorded ops, from the
// forward pass to the end of backward(): model code takes them from allocate() and opens no
// ArenaScope of the step's arena while a tape listens.
// Recompute  recompute(p), one line at a tensor in model code after the forward pass's last use of
//         it, gives its memory back at once. backward() takes it again, at the same address, before
//         the first gradient op that reads it, runs again the ops that wrote it and those that
//         wrote what they read, down to arrays that are still there, and gives it back after its
//         last use. Ops that ran in place on the way run again in their order. A rebuilt array
//         serves all its readers: no op runs twice. An array is kept after all (recompute() is
//         false) where an op that must not run again wrote it (products, attention, the compressor:
//         ops without `replay`), where no recorded op filled it, and where its memory is not the
//         tape's.
// Memory  gradients are zero when first asked for, in blocks of the arena that are given back once
//         the op that made the array has run backward.
// Errors  CHECK: an op that must not run again updates in place what a released array is to be
//         rebuilt from.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "device/exec_context.h"
#include "device/paged_arena.h"
#include "ops/matmul/packed_weight.h"

namespace cachalot::autograd {

// What backward needs of a matrix that the forward pass reads packed. Borrowed.
struct MatrixGrad {
  float* grad;     // [rows, columns] of the packed matrix, added to; null: frozen
  int64_t stride;  // floats from row to row of grad
  const ops::PackedWeight* transposed;  // W^T at the values the forward pass multiplied by
};

// One op that has run. Arrays are named by any of their elements; those that are no storage of the
// tape (constants) are passed over.
struct Op {
  const char* name = "";
  std::vector<const float*> reads = {};
  std::vector<const float*> writes = {};  // made, or updated in place
  std::function<void()> replay = {};      // the same op to the same bits; empty: must not run again
  std::function<void()> backward =
      {};  // empty: gradients pass through unchanged, or there are none
  std::vector<const float*> needs = {};  // whose values backward reads
};

struct TapeMemory {
  // Most bytes alive at once, those of outer tapes included. Planned: from the ops, the arrays'
  // sizes and their lifetimes, known before backward begins; an upper bound, since an op whose
  // inputs turn out to need no gradient counts with them.
  int64_t planned_peak = 0;
  int64_t measured_peak = 0;
  int64_t released_bytes = 0;  // by recompute(), each array once
  int64_t rebuilt_bytes = 0;   // of those that a gradient op read
  int64_t num_ops = 0;
  int64_t num_replayed = 0;  // ops that ran again
};

class Tape {
 public:
  // A tape within `outer` takes gradients and matrices that it does not know itself from there.
  Tape(device::PagedArena& memory, device::ExecContext& exec, Tape* outer = nullptr);
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // An array of the forward pass whose gradient the tape keeps, in memory that lasts as long as the
  // tape.
  float* allocate(int64_t count);
  // The same in the caller's memory. Arrays do not overlap (CHECK).
  void add_storage(const float* values, int64_t count);
  // A parameter: `grad` is the caller's, added to.
  void add_parameter(const float* values, int64_t count, float* grad);
  void add_matrix(const ops::PackedWeight* weight, const MatrixGrad& grad);

  // The gradient at this element; null for memory that has none (constants, frozen parameters).
  float* grad(const float* values);
  // The same, but null also where nothing has been added to that array yet: an op whose outputs
  // have no gradient has nothing to do.
  float* existing_grad(const float* values);
  const MatrixGrad* matrix(const ops::PackedWeight* weight) const;  // null: none

  // Rows that were encoded from values and take their gradient: `rows` is the first encoded byte.
  void add_encoded(const std::byte* rows, const float* values);
  const float* values_of(const std::byte* rows) const;  // null: none

  void record(Op op);
  // False: the array is kept.
  bool recompute(const float* values);
  // Runs the ops, last first, once.
  void backward();

  int64_t num_ops() const { return static_cast<int64_t>(ops_.size()); }
  // Complete after backward().
  const TapeMemory& memory() const { return report_; }

 private:
  struct Storage {
    int64_t count;
    float* values;          // null: not the tape's memory
    float* grad = nullptr;  // null: not asked for yet
    bool owns_grad = false;
    int64_t born;           // num_ops() when it was added: the ops before it know nothing of it
    int64_t released = -1;  // num_ops() at recompute()
    bool is_released = false;
    std::vector<int64_t> writers;  // ops, ascending
    int64_t bytes() const { return device::PagedArena::bytes_of(count); }
  };
  struct Node {
    const char* name;
    std::vector<Storage*> reads, writes, needs;
    std::function<void()> replay, backward;
  };
  // What backward does around one op.
  struct Around {
    std::vector<Storage*> restored;  // before it, then the ops run again
    std::vector<int64_t> replayed;   // ascending
    std::vector<Storage*> released;  // after it
  };
  struct Rebuild {
    std::unordered_set<Storage*> storages;  // that will be written
    std::vector<int64_t> ops;
    std::unordered_set<int64_t> seen;
  };
  Storage* find(const float* values, int64_t* offset);
  std::vector<Storage*> storages_of(const std::vector<const float*>& arrays);
  Storage& add(const float* values, int64_t count);
  bool collect(Storage* storage, Rebuild& rebuild);
  std::vector<Around> plan();
  int64_t plan_peak(const std::vector<Around>& around) const;
  void run_backward(Node& node, const Around& around);
  void release(Storage& storage);
  void drop_grad(Storage& storage);

  device::PagedArena& memory_;
  device::ExecContext& exec_;
  Tape* outer_;
  device::PagedArena::Mark mark_;
  int64_t outer_bytes_;  // alive when the tape began
  std::map<const float*, Storage, std::greater<>> storages_;
  std::unordered_map<const ops::PackedWeight*, MatrixGrad> matrices_;
  std::unordered_map<const std::byte*, const float*> encoded_;
  std::vector<Node> ops_;
  TapeMemory report_;
};

// What a recorded op runs on: style.md 3. Without a tape an op is the plain op.
struct Context {
  Context(device::ExecContext& exec, Tape* tape = nullptr)
      : exec(exec), tape(tape) {}  // NOLINT: an op's caller has either
  device::ExecContext& exec;
  Tape* tape;

  // An array of activations: with a tape, one that has a gradient.
  float* floats(int64_t count) const {
    return tape == nullptr ? exec.arena->allocate<float>(count) : tape->allocate(count);
  }
};

}  // namespace cachalot::autograd
