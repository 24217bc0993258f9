// The tape's recompute: what runs again, when, and how much memory that leaves alive.
#include <algorithm>
#include <unordered_map>

#include "autograd/tape.h"
#include "base/check.h"

namespace cachalot::autograd {
namespace {
template <typename T>
bool contains(const std::vector<T>& list, const T& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}
}  // namespace

// Adds to `rebuild` what must run so that the array holds its last values again. False: that cannot
// be. What an op writes is rebuilt as a whole; so is an array that it reads and that is gone, or
// that a later op has updated since.
bool Tape::collect(Storage* storage, Rebuild& rebuild) {
  if (!rebuild.storages.insert(storage).second) return true;
  // An op that came first and updates in place started from values that nobody recorded.
  if (storage->writers.empty() || contains(ops_[storage->writers.front()].reads, storage))
    return false;
  for (const int64_t writer : storage->writers) {
    if (!rebuild.seen.insert(writer).second) continue;
    const Node& op = ops_[writer];
    if (!op.replay) return false;
    rebuild.ops.push_back(writer);
    for (Storage* out : op.writes)
      if (!collect(out, rebuild)) return false;
    for (Storage* in : op.reads) {
      const bool is_stale = !in->writers.empty() && in->writers.back() > writer;
      if ((in->is_released || is_stale) && !collect(in, rebuild)) return false;
    }
  }
  return true;
}

bool Tape::recompute(const float* values) {
  int64_t offset = 0;
  Storage* storage = find(values, &offset);
  if (storage == nullptr || storage->values == nullptr) return false;
  if (storage->is_released) return true;
  Rebuild rebuild;
  if (!collect(storage, rebuild)) return false;
  storage->released = num_ops();
  report_.released_bytes += storage->bytes();
  release(*storage);
  return true;
}

void Tape::release(Storage& storage) {
  memory_.release(storage.values, storage.count);
  storage.is_released = true;
}

// Walks backward without running anything: the first gradient op that reads a released array
// rebuilds it and all that this takes; each array then stays until the last that reads it, gradient
// op or op run again, is done.
std::vector<Tape::Around> Tape::plan() {
  std::vector<Around> around(ops_.size());
  std::unordered_map<Storage*, int64_t> last_use;
  std::vector<Storage*> released;
  for (auto& [values, storage] : storages_)
    if (storage.is_released) released.push_back(&storage);
  for (int64_t i = num_ops() - 1; i >= 0; --i) {
    Rebuild rebuild;
    for (Storage* storage : ops_[i].needs) {
      last_use[storage] = i;
      if (storage->is_released && !collect(storage, rebuild)) {
        CACHALOT_CHECK_MSG(false, ops_[i].name);  // updated in place after recompute()
      }
    }
    std::sort(rebuild.ops.begin(), rebuild.ops.end());
    for (Storage* storage : rebuild.storages) {
      last_use[storage] = i;
      if (!storage->is_released) continue;
      storage->is_released = false;
      around[i].restored.push_back(storage);
    }
    for (const int64_t op : rebuild.ops)
      for (Storage* storage : ops_[op].reads) last_use[storage] = i;
    around[i].replayed = std::move(rebuild.ops);
  }
  for (Storage* storage : released) {
    if (!storage->is_released) around[last_use.at(storage)].released.push_back(storage);
    storage->is_released = true;
  }
  return around;
}

int64_t Tape::plan_peak(const std::vector<Around>& around) const {
  // Forward: what lives after each number of ops.
  std::vector<int64_t> change(ops_.size() + 2, 0);
  int64_t live = outer_bytes_, early_grads = 0;
  std::unordered_set<const Storage*> has_grad;
  std::vector<std::vector<const Storage*>> ends(ops_.size() + 1);  // of gradients, by the op
  for (const auto& [values, storage] : storages_) {
    ends[storage.born].push_back(&storage);
    if (storage.grad != nullptr) has_grad.insert(&storage);
    if (storage.owns_grad) early_grads += storage.bytes();
    if (storage.values == nullptr) continue;
    change[storage.born] += storage.bytes();
    if (storage.released >= 0) change[storage.released] -= storage.bytes();
  }
  int64_t peak = live;
  for (const int64_t bytes : change) peak = std::max(peak, live += bytes);
  // Backward. Ends of the tape have left gradients before it.
  peak = std::max(peak, live += early_grads);
  for (int64_t i = num_ops() - 1; i >= 0; --i) {
    for (const Storage* storage : around[i].restored) live += storage->bytes();
    const Node& op = ops_[i];
    const bool is_reached = std::any_of(op.writes.begin(), op.writes.end(),
                                        [&](Storage* out) { return has_grad.contains(out); });
    for (const Storage* in : op.reads) {
      if (!is_reached || !op.backward || !has_grad.insert(in).second) continue;
      live += in->bytes();
    }
    peak = std::max(peak, live);
    for (const Storage* storage : around[i].released) live -= storage->bytes();
    for (int64_t born = i; born <= (i + 1 == num_ops() ? num_ops() : i); ++born) {
      for (const Storage* storage : ends[born]) {
        const bool is_callers = storage->grad != nullptr && !storage->owns_grad;
        if (!is_callers && has_grad.erase(storage) > 0) live -= storage->bytes();
      }
    }
  }
  return peak;
}

}  // namespace cachalot::autograd
