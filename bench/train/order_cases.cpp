#include "train/order_cases.h"

#include <fmt/format.h>

#include <algorithm>

#include "attention/training_sample.h"
#include "ops/matmul/matmul_backward.h"
#include "ops/norm/rms_norm.h"

namespace cachalot::bench {
namespace {

constexpr int64_t kSequences = 4;
constexpr int64_t kLength = 512;
constexpr int64_t kTokens = kSequences * kLength;
constexpr int kBlocks = 7;  // layers and the MTP block

// Of what is summed over tokens, samples share the sinks' gradients alone.
void add_attention(const char* name, int calls, int64_t ratio, int64_t topk,
                   std::vector<OrderedOp>& ops) {
  auto s =
      std::make_shared<Samples>(SampleShape{8, 64, 64, topk, 8, 32, ratio}, kLength, kSequences);
  ops.push_back({fmt::format("attention backward, {}", name),
                 calls,
                 kTokens,
                 kLength,
                 {s->shape.heads},
                 [s](device::ExecContext& ctx, int64_t first, int64_t count, float* const* sums) {
                   ops::sparse_attention_backward(
                       ctx, s->backward(first / kLength, count / kLength, sums[0]));
                 }});
}

void add_index_loss(std::vector<OrderedOp>& ops) {
  auto s = std::make_shared<IndexSamples>(SampleShape{8, 64, 64, 32, 8, 32}, kLength, kSequences);
  ops.push_back({"indexer loss",
                 3,
                 kTokens,
                 kLength,
                 {},
                 [s](device::ExecContext& ctx, int64_t first, int64_t count, float* const*) {
                   double loss = 0;
                   ops::index_loss(ctx, s->loss(first / kLength, count / kLength, &loss));
                 }});
}

struct Rows {
  std::vector<float> dy, x;
};

void add_weight(int calls, int64_t n, int64_t k, std::vector<OrderedOp>& ops) {
  auto rows = std::make_shared<Rows>(Rows{random_values(kTokens * n), random_values(kTokens * k)});
  ops.push_back({fmt::format("dW of {} x {}", n, k),
                 calls,
                 kTokens,
                 1,
                 {n * k},
                 [=](device::ExecContext& ctx, int64_t first, int64_t count, float* const* sums) {
                   ops::matmul_weight_grad(
                       ctx, {rows->dy.data() + first * n, count, n, rows->x.data() + first * k, k,
                             nullptr, sums[0], n, k, k});
                 }});
}

void add_norm(int calls, int64_t columns, std::vector<OrderedOp>& ops) {
  struct Norm : Rows {
    std::vector<float> gain, dx;
  };
  auto s = std::make_shared<Norm>();
  s->dy = s->x = random_values(kTokens * columns);
  s->gain.assign(columns, 1);
  s->dx.resize(kTokens * columns);
  ops.push_back({fmt::format("norm backward of {}", columns),
                 calls,
                 kTokens,
                 1,
                 {columns},
                 [=](device::ExecContext& ctx, int64_t first, int64_t count, float* const* sums) {
                   const int64_t at = first * columns;
                   ops::rms_norm_backward(
                       ctx, {s->x.data() + at, columns, s->gain.data(), s->dy.data() + at, columns,
                             s->dx.data() + at, columns, sums[0], count, columns, 1e-6f});
                 }});
}

std::vector<std::vector<float>> arrays(const std::vector<int64_t>& sizes) {
  std::vector<std::vector<float>> out;
  for (const int64_t size : sizes) out.emplace_back(size);
  return out;
}

std::vector<float*> pointers(std::vector<std::vector<float>>& arrays) {
  std::vector<float*> out;
  for (std::vector<float>& array : arrays) out.push_back(array.data());
  return out;
}

}  // namespace

std::vector<OrderedOp> make_ordered_ops() {
  std::vector<OrderedOp> ops;
  add_attention("window", 2, 0, 0, ops);
  add_attention("CSA", 3, 4, 32, ops);
  add_attention("HCA", 2, 128, 0, ops);
  add_index_loss(ops);
  // wq_a, wo_a of two groups, the shared expert's w1 and w3; wq_b; wkv; wo_b; its w2.
  add_weight(5 * kBlocks, 128, 256, ops);
  add_weight(kBlocks, 512, 128, ops);
  add_weight(kBlocks, 64, 256, ops);
  add_weight(kBlocks, 256, 256, ops);
  add_weight(kBlocks, 256, 128, ops);
  // The router, mHC's projection, the head with the MTP block's.
  add_weight(kBlocks, 16, 256, ops);
  add_weight(2 * kBlocks, 24, 1024, ops);
  add_weight(2, 4096, 256, ops);
  add_norm(2 * kBlocks, 256, ops);
  return ops;
}

OrderCase::OrderCase(device::ExecContext& ctx, OrderedOp op)
    : ctx_(ctx), op_(std::move(op)), sums_(arrays(op_.sums)) {
  for (int i = 0; i < ctx.pool->num_threads(); ++i) {
    workers_.push_back(std::make_unique<Worker>());
    workers_.back()->sums = arrays(op_.sums);
  }
}

void OrderCase::ordered() { op_.add(ctx_, 0, op_.tokens, pointers(sums_).data()); }

void OrderCase::cut() {
  const auto parts = static_cast<int64_t>(workers_.size());
  ctx_.pool->run(parts, [&](int64_t part, int) {
    Worker& worker = *workers_[part];
    for (std::vector<float>& array : worker.sums) std::fill(array.begin(), array.end(), 0.0f);
    device::ExecContext ctx{&worker.pool, &worker.arena, ctx_.isa};
    const int64_t units = op_.tokens / op_.unit;
    const int64_t first = part * units / parts * op_.unit;
    const int64_t last = (part + 1) * units / parts * op_.unit;
    op_.add(ctx, first, last - first, pointers(worker.sums).data());
  });
  for (size_t array = 0; array < sums_.size(); ++array) {
    const auto size = static_cast<int64_t>(sums_[array].size());
    ctx_.pool->run(parts, [&](int64_t part, int) {
      for (const auto& worker : workers_) {
        for (int64_t i = part * size / parts; i < (part + 1) * size / parts; ++i)
          sums_[array][i] += worker->sums[array][i];
      }
    });
  }
}

}  // namespace cachalot::bench
