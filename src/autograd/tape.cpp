#include "autograd/tape.h"

#include <algorithm>

#include "base/check.h"
#include "ops/rows/rows.h"

namespace cachalot::autograd {

Tape::Tape(device::PagedArena& memory, device::ExecContext& exec, Tape* outer)
    : memory_(memory),
      exec_(exec),
      outer_(outer),
      mark_(memory.mark()),
      outer_bytes_(memory.live_bytes()) {}

Tape::~Tape() {
  int64_t live = 0;
  for (auto& [values, storage] : storages_) {
    drop_grad(storage);
    if (storage.values != nullptr && !storage.is_released) live += storage.bytes();
  }
  memory_.rewind(mark_, live);
  for (auto& [values, storage] : storages_) {  // whoever is given the address next may use it
    if (!storage.is_released) continue;
    memory_.restore(storage.values, storage.count);
    memory_.rewind(mark_, storage.bytes());
  }
}

Tape::Storage& Tape::add(const float* values, int64_t count) {
  int64_t offset = 0;
  CACHALOT_CHECK(find(values, &offset) == nullptr && find(values + count - 1, &offset) == nullptr);
  Storage storage{};
  storage.count = count;
  storage.born = num_ops();
  storage.released = -1;
  return storages_.emplace(values, std::move(storage)).first->second;
}

float* Tape::allocate(int64_t count) {
  float* values = memory_.allocate(count);
  if (count == 0) count = 1;  // an address of its own
  add(values, count).values = values;
  report_.measured_peak = std::max(report_.measured_peak, memory_.live_bytes());
  return values;
}

void Tape::add_storage(const float* values, int64_t count) {
  if (count > 0) add(values, count);
}

void Tape::add_parameter(const float* values, int64_t count, float* grad) {
  if (count > 0) add(values, count).grad = grad;
}

void Tape::add_matrix(const ops::PackedWeight* weight, const MatrixGrad& grad) {
  const bool added = matrices_.emplace(weight, grad).second;
  CACHALOT_CHECK(added);
}

Tape::Storage* Tape::find(const float* values, int64_t* offset) {
  const auto it = storages_.lower_bound(values);  // the last array that begins at or before it
  if (it == storages_.end() || values - it->first >= it->second.count) return nullptr;
  *offset = values - it->first;
  return &it->second;
}

float* Tape::grad(const float* values) {
  int64_t offset = 0;
  Storage* storage = find(values, &offset);
  if (storage == nullptr) return outer_ == nullptr ? nullptr : outer_->grad(values);
  if (storage->grad == nullptr) {
    storage->grad = memory_.take_block(storage->count);
    storage->owns_grad = true;
    ops::fill(exec_, storage->grad, storage->count, 0.0f);
    report_.measured_peak = std::max(report_.measured_peak, memory_.live_bytes());
  }
  return storage->grad + offset;
}

void Tape::drop_grad(Storage& storage) {
  if (!storage.owns_grad) return;
  memory_.give_block(storage.grad, storage.count);
  storage.grad = nullptr;
  storage.owns_grad = false;
}

float* Tape::existing_grad(const float* values) {
  int64_t offset = 0;
  Storage* storage = find(values, &offset);
  if (storage == nullptr) return outer_ == nullptr ? nullptr : outer_->existing_grad(values);
  return storage->grad == nullptr ? nullptr : storage->grad + offset;
}

const MatrixGrad* Tape::matrix(const ops::PackedWeight* weight) const {
  const auto it = matrices_.find(weight);
  if (it != matrices_.end()) return &it->second;
  return outer_ == nullptr ? nullptr : outer_->matrix(weight);
}

void Tape::add_encoded(const std::byte* rows, const float* values) {
  encoded_.insert_or_assign(rows, values);
}

const float* Tape::values_of(const std::byte* rows) const {
  const auto it = encoded_.find(rows);
  return it == encoded_.end() ? nullptr : it->second;
}

std::vector<Tape::Storage*> Tape::storages_of(const std::vector<const float*>& arrays) {
  std::vector<Storage*> found;
  for (const float* array : arrays) {
    int64_t offset = 0;
    Storage* storage = find(array, &offset);
    if (storage != nullptr && std::find(found.begin(), found.end(), storage) == found.end())
      found.push_back(storage);
  }
  return found;
}

void Tape::record(Op op) {
  Node node{op.name,
            storages_of(op.reads),
            storages_of(op.writes),
            storages_of(op.needs),
            std::move(op.replay),
            std::move(op.backward)};
  for (Storage* storage : node.writes) storage->writers.push_back(num_ops());
  ops_.push_back(std::move(node));
}

void Tape::backward() {
  const std::vector<Around> around = plan();
  report_.planned_peak = plan_peak(around);
  report_.num_ops = num_ops();
  // By age, youngest first: an array's gradient is final once the ops recorded after it was added
  // have all run.
  std::vector<Storage*> by_age;
  for (auto& [values, storage] : storages_) by_age.push_back(&storage);
  std::sort(by_age.begin(), by_age.end(),
            [](const Storage* a, const Storage* b) { return a->born > b->born; });
  auto next = by_age.begin();
  for (int64_t i = num_ops() - 1; i >= 0; --i) {
    run_backward(ops_[i], around[i]);
    for (; next != by_age.end() && (*next)->born >= i; ++next) drop_grad(**next);
  }
}

void Tape::run_backward(Node& node, const Around& around) {
  for (Storage* storage : around.restored) {
    memory_.restore(storage->values, storage->count);
    storage->is_released = false;
    report_.rebuilt_bytes += storage->bytes();
  }
  report_.measured_peak = std::max(report_.measured_peak, memory_.live_bytes());
  for (const int64_t op : around.replayed) ops_[op].replay();
  report_.num_replayed += static_cast<int64_t>(around.replayed.size());
  if (node.backward) node.backward();
  for (Storage* storage : around.released) release(*storage);
}

}  // namespace cachalot::autograd
