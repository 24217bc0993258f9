#include "autograd/tape.h"

#include <algorithm>

#include "base/check.h"

namespace cachalot::autograd {

void Tape::add_storage(const float* values, int64_t count) {
  if (count == 0) return;
  int64_t offset = 0;
  CACHALOT_CHECK(find(values, &offset) == nullptr && find(values + count - 1, &offset) == nullptr);
  storages_.emplace(values, Storage{count, nullptr, nullptr, num_nodes()});
}

void Tape::add_parameter(const float* values, int64_t count, float* grad) {
  add_storage(values, count);
  storages_.at(values).grad = grad;
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
  if (storage == nullptr) return nullptr;
  if (storage->grad == nullptr) {
    storage->owned = std::make_unique<float[]>(static_cast<size_t>(storage->count));
    storage->grad = storage->owned.get();
  }
  return storage->grad + offset;
}

float* Tape::existing_grad(const float* values) {
  int64_t offset = 0;
  Storage* storage = find(values, &offset);
  return storage == nullptr || storage->grad == nullptr ? nullptr : storage->grad + offset;
}

const MatrixGrad* Tape::matrix(const ops::PackedWeight* weight) const {
  const auto it = matrices_.find(weight);
  return it == matrices_.end() ? nullptr : &it->second;
}

void Tape::record(std::function<void()> backward) {
  (segments_ == nullptr ? nodes_ : segments_->back()).push_back(std::move(backward));
}

void Tape::add_encoded(const std::byte* rows, const float* values) {
  encoded_.insert_or_assign(rows, values);
}

const float* Tape::values_of(const std::byte* rows) const {
  const auto it = encoded_.find(rows);
  return it == encoded_.end() ? nullptr : it->second;
}

void Tape::backward() {
  // By age, youngest first: an array's gradient is final once the nodes recorded after it was added have all run.
  std::vector<Storage*> by_age;
  for (auto& [values, storage] : storages_) by_age.push_back(&storage);
  std::sort(by_age.begin(), by_age.end(),
            [](const Storage* a, const Storage* b) { return a->num_nodes > b->num_nodes; });
  auto next = by_age.begin();
  while (!nodes_.empty()) {
    nodes_.back()();
    nodes_.pop_back();
    for (; next != by_age.end() && (*next)->num_nodes >= num_nodes(); ++next) {
      if ((*next)->owned == nullptr) continue;
      (*next)->owned.reset();
      (*next)->grad = nullptr;
    }
  }
}

SegmentScope::SegmentScope(Tape* tape) : tape_(tape) {
  if (tape_ == nullptr) return;
  CACHALOT_CHECK(tape_->segments_ == nullptr);
  tape_->segments_ = &segments_;
}

void SegmentScope::next() {
  if (tape_ != nullptr) segments_.emplace_back();
}

SegmentScope::~SegmentScope() {
  if (tape_ == nullptr) return;
  tape_->segments_ = nullptr;
  tape_->record([segments = std::move(segments_)] {
    for (const Tape::Nodes& nodes : segments) {
      for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) (*node)();
    }
  });
}

}  // namespace cachalot::autograd
