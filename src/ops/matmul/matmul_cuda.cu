#include "ops/matmul/bf16_product_cuda.h"
#include "ops/matmul/dense_product_cuda.h"
#include "ops/matmul/packed_product.cuh"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

using OnGpu = PackedWeight::OnGpu;
using Products = std::span<const MatmulParams>;

bool is_bf16(const MatmulParams& p) { return p.w->format() == WeightFormat::bf16; }

// How the x of a run of products that go into one launch lie: in one place, or one after the other.
enum class Place { alone, shared, beside };

// Of p after the products of a run that begins with `first` and lie as `run` says.
bool continues(const MatmulParams& first, const MatmulParams& before, const MatmulParams& p,
               Place place) {
  const int64_t columns = first.w->columns();
  if (p.m != first.m || p.x_stride != first.x_stride || p.w->columns() != columns ||
      p.w->on_gpu() != first.w->on_gpu() || p.w->format() != first.w->format())
    return false;
  if (place == Place::shared)
    return p.x == first.x && (is_bf16(first) || before.w->rows() % 16 == 0);
  return p.x == before.x + columns && !is_bf16(first) && columns % 1024 == 0 &&
         p.w->rows() == first.w->rows() && p.w->rows() % 16 == 0;
}

// The longest run of streamed products that one launch can take.
Products first_run(Products products, Place& place) {
  const MatmulParams& first = products[0];
  const size_t most = std::min<size_t>(
      products.size(), is_bf16(first) ? size_t{kMaxBf16Parts} : size_t{kMaxDenseGroups});
  place = Place::alone;
  size_t count = 1;
  for (const Place each : {Place::shared, Place::beside}) {
    while (count < most && (count == 1 || place == each) &&
           continues(first, products[count - 1], products[count], each)) {
      place = each;
      ++count;
    }
  }
  return products.first(count);
}

void fp8_products(device::ExecContext& ctx, Products products, Place place) {
  const MatmulParams& first = products[0];
  const bool quantised = first.w->on_gpu() == OnGpu::streamed;
  DenseShape shape{.form = quantised ? DenseForm::official_fp8 : DenseForm::unquantised,
                   .m = first.m,
                   .rows = 0,
                   .columns = first.w->columns(),
                   .groups = static_cast<int64_t>(products.size()),
                   .float_rows = true,
                   .shared_x = place == Place::shared};
  DenseGroup groups[kMaxDenseGroups];
  for (size_t i = 0; i < products.size(); ++i) {
    const MatmulParams& p = products[i];
    CACHALOT_CHECK(p.round_y);
    groups[i] = {p.w->streamed_bytes(), p.w->rows(), p.y, p.y_stride};
    shape.rows += p.w->rows();
  }
  const Result<DensePlan> plan = make_dense_plan(device::cuda::device_of(ctx), shape);
  CACHALOT_CHECK(plan.has_value());
  device::ArenaScope scope(*ctx.arena);
  std::byte* scratch = nullptr;
  if (plan->scratch_bytes > 0) scratch = ctx.arena->allocate<std::byte>(plan->scratch_bytes);
  launch_dense(*plan, device::cuda::stream_of(ctx), first.x, first.x_stride,
               {groups, products.size()}, scratch);
}

void bf16_products(device::ExecContext& ctx, Products products) {
  const MatmulParams& first = products[0];
  Bf16Part parts[kMaxBf16Parts];
  for (size_t i = 0; i < products.size(); ++i) {
    const MatmulParams& p = products[i];
    parts[i] = {p.w->streamed_bytes(), p.w->rows(), p.y, p.y_stride, p.round_y};
  }
  const Bf16Products all{
      first.x, first.m, first.x_stride, first.w->columns(), {parts, products.size()}};
  const device::cuda::Device& device = device::cuda::device_of(ctx);
  device::ArenaScope scope(*ctx.arena);
  std::byte* scratch = nullptr;
  if (const int64_t num_bytes = bf16_scratch_bytes(device, all); num_bytes > 0)
    scratch = ctx.arena->allocate<std::byte>(num_bytes);
  launch_bf16_products(device, device::cuda::stream_of(ctx), all, scratch);
}

void packed_product(device::ExecContext& ctx, const MatmulParams& p) {
  CACHALOT_CHECK(p.chain_inputs == 0 || p.chain_inputs == packed::kChainInputs);
  const packed::Rows rows{
      p.x,       p.m,     p.x_stride, p.x_rows, p.y, p.y_stride, p.chain_inputs != 0,
      p.round_y, nullptr, nullptr,    0};
  packed::launch_product(ctx, p.w->format(), p.math, packed::weight_of(*p.w), rows, p.m == 1);
}

}  // namespace

void grouped_matmul_cuda(device::ExecContext& ctx, Products products) {
  while (!products.empty()) {
    const MatmulParams& first = products[0];
    CACHALOT_CHECK(!first.accumulate);  // training's
    size_t count = 1;
    if (first.m > 0 && first.w->on_gpu() == OnGpu::panels) {
      packed_product(ctx, first);
    } else if (first.m > 0) {
      Place place;
      const Products run = first_run(products, place);
      for (const MatmulParams& p : run)
        CACHALOT_CHECK(p.math == MatmulMath::bf16 && p.x_rows == nullptr);
      is_bf16(first) ? bf16_products(ctx, run) : fp8_products(ctx, run, place);
      count = run.size();
    }
    products = products.subspan(count);
  }
}

}  // namespace cachalot::ops
