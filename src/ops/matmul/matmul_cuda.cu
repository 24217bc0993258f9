#include <optional>

#include "ops/matmul/bf16_product_cuda.h"
#include "ops/matmul/bf16_rows.h"
#include "ops/matmul/dense_bulk.h"
#include "ops/matmul/dense_product_cuda.h"
#include "ops/matmul/laid_weights.h"
#include "ops/matmul/packed_product.cuh"
#include "ops/moe/swiglu.h"
#include "ops/norm/rms_norm.h"
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
  return p.x != nullptr && p.x == before.x + columns && !is_bf16(first) && columns % 1024 == 0 &&
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

// The products of one launch, planned.
struct Launch {
  Products products;
  const uint16_t* x_bf16 = nullptr;  // x of all in bf16 instead
  DensePlan plan;                    // of fp8
  DenseGroup groups[kMaxDenseGroups];
  Bf16Part parts[kMaxBf16Parts];
  int64_t scratch_bytes = 0;
  bool overlaps = false;

  const MatmulParams& first() const { return products[0]; }
  int64_t num_weights() const {
    int64_t count = 0;
    for (const MatmulParams& p : products) count += p.w->rows() * p.w->columns();
    return count;
  }
  Bf16Products bf16() const {
    return {first().x, first().m, first().x_stride, first().w->columns(), {parts, products.size()},
            x_bf16};
  }
};

DenseShape shape_of(Products products, Place place) {
  const MatmulParams& first = products[0];
  const bool quantised = first.w->on_gpu() == OnGpu::streamed;
  DenseShape shape{.form = quantised ? DenseForm::official_fp8 : DenseForm::unquantised,
                   .m = first.m,
                   .rows = 0,
                   .columns = first.w->columns(),
                   .groups = static_cast<int64_t>(products.size()),
                   .float_rows = true,
                   .shared_x = place == Place::shared};
  for (const MatmulParams& p : products) shape.rows += p.w->rows();
  return shape;
}

// Puts the weights that are laid into the launch's groups; false: not all are, or not so that the
// one launch finds them.
bool takes_laid(const device::cuda::Device& device, const DenseShape& shape, Launch& launch) {
  if (!dense_bulk_fits(shape, device.num_sms)) return false;
  const std::byte* codes = nullptr;
  const float* scales = nullptr;
  for (size_t i = 0; i < launch.products.size(); ++i) {
    const LaidWeight* const laid = launch.products[i].laid;
    if (laid == nullptr) return false;
    DenseGroup& group = launch.groups[i];
    if (i > 0 && (laid->codes != codes || laid->scales != scales)) return false;
    group.laid = laid->codes;
    group.laid_scales = laid->scales;
    const int64_t blocks = dense_bulk_blocks(group, shape);
    codes = laid->codes + blocks * dense_bulk_block_bytes(shape);
    scales = laid->scales + blocks;
  }
  return true;
}

void plan_fp8(const device::cuda::Device& device, DenseShape shape, Launch& launch) {
  for (size_t i = 0; i < launch.products.size(); ++i) {
    const MatmulParams& p = launch.products[i];
    CACHALOT_CHECK(p.round_y);
    CACHALOT_CHECK(p.laid == nullptr || p.laid->weight == p.w);
    launch.groups[i] = {p.w->streamed_bytes(), p.w->rows(), p.y, p.y_stride};
  }
  shape.laid = takes_laid(device, shape, launch);
  const Result<DensePlan> plan = make_dense_plan(device, shape);
  CACHALOT_CHECK(plan.has_value());
  launch.plan = *plan;
  launch.scratch_bytes = plan->scratch_bytes;
  launch.overlaps = plan->overlaps;
}

void plan_bf16(const device::cuda::Device& device, Launch& launch) {
  for (size_t i = 0; i < launch.products.size(); ++i) {
    const MatmulParams& p = launch.products[i];
    launch.parts[i] = {p.w->streamed_bytes(), p.w->rows(), p.y, p.y_stride, p.round_y};
  }
  launch.scratch_bytes = bf16_scratch_bytes(device, launch.bf16());
  launch.overlaps = launch.scratch_bytes == 0;
}

// The first of the products, as many as one launch can take. x_bf16: null, or their x.
Launch plan_launch(const device::cuda::Device& device, Products products,
                   const uint16_t* x_bf16 = nullptr) {
  Place place;
  Launch launch;
  launch.x_bf16 = x_bf16;
  launch.products = first_run(products, place);
  for (const MatmulParams& p : launch.products)
    CACHALOT_CHECK(p.math == MatmulMath::bf16 && p.x_rows == nullptr);
  if (is_bf16(launch.first())) {
    plan_bf16(device, launch);
  } else {
    DenseShape shape = shape_of(launch.products, place);
    shape.bf16_x = x_bf16 != nullptr;
    plan_fp8(device, shape, launch);
  }
  return launch;
}

void run_launch(device::ExecContext& ctx, const Launch& launch, const LaunchOrder& order) {
  const MatmulParams& first = launch.first();
  const device::cuda::Stream& stream = device::cuda::stream_of(ctx);
  device::ArenaScope scope(*ctx.arena);
  std::byte* scratch = nullptr;
  if (launch.scratch_bytes > 0) scratch = ctx.arena->allocate<std::byte>(launch.scratch_bytes);
  if (is_bf16(first)) {
    launch_bf16_products(device::cuda::device_of(ctx), stream, launch.bf16(), scratch, order);
  } else {
    const void* x = first.x;
    if (launch.x_bf16 != nullptr) x = launch.x_bf16;
    launch_dense(launch.plan, stream, x, first.x_stride, {launch.groups, launch.products.size()},
                 scratch, order);
  }
}

void packed_product(device::ExecContext& ctx, const MatmulParams& p) {
  CACHALOT_CHECK(p.chain_inputs == 0 || p.chain_inputs == packed::kChainInputs);
  const packed::Rows rows{
      p.x,       p.m,     p.x_stride, p.x_rows, p.y, p.y_stride, p.chain_inputs != 0,
      p.round_y, nullptr, nullptr,    0};
  packed::launch_product(ctx, p.w->format(), p.math, packed::weight_of(*p.w), rows, p.m == 1);
}

// Runs the op that makes x, or leaves it to the one launch that has all products.
void make_input(device::ExecContext& ctx, const MatmulParams& all, const Launch* only,
                LaunchOrder& order) {
  if (all.norm != nullptr) {
    order.norm = *all.norm;
    if (only == nullptr || !only->plan.makes_norm || !order.norm->round_y) {
      order.norm.reset();
      rms_norm_cuda(ctx, *all.norm);
    } else if (order.norm->g != nullptr) {
      order.norm->g = ctx.gpu->on_device(order.norm->g);
    }
  }
  if (all.swiglu != nullptr) {
    order.swiglu = *all.swiglu;
    if (only == nullptr || !only->plan.makes_swiglu || !order.swiglu->round_h ||
        order.swiglu->weight != nullptr || order.swiglu->clamped != nullptr) {
      order.swiglu.reset();
      swiglu_cuda(ctx, *all.swiglu);
    }
  }
}

DenseShape shape_of_bf16(Products products, bool x, bool y, bool shared_x) {
  const bool shared = x ? shared_x : products.size() > 1 && products[1].x == products[0].x;
  DenseShape shape = shape_of(products, products.size() == 1 ? Place::alone
                                        : shared             ? Place::shared
                                                             : Place::beside);
  shape.bf16_x = x;
  shape.bf16_y = y;
  return shape;
}

}  // namespace

bool products_lay_weights(const device::ExecContext& ctx, Products products, bool shared_x) {
  if (ctx.gpu == nullptr || products.empty() || products.size() > kMaxDenseGroups) return false;
  const MatmulParams& first = products[0];
  for (const MatmulParams& p : products) {
    if (p.w->on_gpu() == OnGpu::panels || p.w->on_gpu() != first.w->on_gpu() ||
        p.w->format() != WeightFormat::fp8 || p.w->columns() != first.w->columns() ||
        p.m != first.m || !p.round_y || p.math != MatmulMath::bf16)
      return false;
  }
  const Place place = products.size() == 1 ? Place::alone
                      : shared_x           ? Place::shared
                                           : Place::beside;
  return dense_bulk_fits(shape_of(products, place), device::cuda::device_of(ctx).num_sms);
}

bool products_take_bf16(const device::ExecContext& ctx, Products products, bool x, bool y,
                        bool shared_x) {
  if (ctx.gpu == nullptr || products.empty() || products.size() > kMaxDenseGroups) return false;
  const MatmulParams& first = products[0];
  for (const MatmulParams& p : products) {
    if (p.w->on_gpu() == OnGpu::panels || p.w->on_gpu() != first.w->on_gpu() ||
        p.w->format() != WeightFormat::fp8 || p.w->columns() != first.w->columns() ||
        p.w->rows() != first.w->rows() || p.m != first.m || !p.round_y ||
        p.math != MatmulMath::bf16 || p.x_rows != nullptr || p.norm != nullptr ||
        p.swiglu != nullptr)
      return false;
  }
  return dense_takes_bf16(device::cuda::device_of(ctx), shape_of_bf16(products, x, y, shared_x));
}

void grouped_matmul_bf16(device::ExecContext& ctx, Products products, const Bf16Rows& rows) {
  const bool bf16_x = rows.x != nullptr, bf16_y = rows.y != nullptr;
  CACHALOT_CHECK(products_take_bf16(ctx, products, bf16_x, bf16_y, rows.shared_x));
  Launch launch;
  launch.products = products;
  const DenseShape shape = shape_of_bf16(products, bf16_x, bf16_y, rows.shared_x);
  for (const MatmulParams& p : products) {
    CACHALOT_CHECK(bf16_x || !shape.shared_x || p.x == products[0].x);
    if (ctx.work != nullptr) count_product(*p.w, p.m, *ctx.work);
  }
  plan_fp8(device::cuda::device_of(ctx), shape, launch);
  uint16_t* y = rows.y;
  for (size_t i = 0; bf16_y && i < products.size(); ++i) {
    launch.groups[i].y = y;
    launch.groups[i].y_stride = shape.rows;
    y += products[i].w->rows();
  }
  const MatmulParams& first = products[0];
  device::ArenaScope scope(*ctx.arena);
  auto* scratch = ctx.arena->allocate<std::byte>(launch.scratch_bytes);
  launch_dense(launch.plan, device::cuda::stream_of(ctx),
               bf16_x ? static_cast<const void*>(rows.x) : first.x,
               !bf16_x          ? first.x_stride
               : shape.shared_x ? shape.columns
                                : shape.groups * shape.columns,
               {launch.groups, products.size()}, scratch);
}

bool products_take_bf16_input(const device::ExecContext& ctx, Products products) {
  if (ctx.gpu == nullptr || products.empty()) return false;
  const device::cuda::Device& device = device::cuda::device_of(ctx);
  const MatmulParams& all = products[0];
  for (const MatmulParams& p : products) {
    if (p.w->on_gpu() == OnGpu::panels || (p.w->format() != WeightFormat::fp8 && !is_bf16(p)) ||
        p.w->columns() != all.w->columns() || p.m != all.m || p.x_stride != p.w->columns() ||
        p.math != MatmulMath::bf16 || (!p.round_y && !is_bf16(p)) || p.accumulate ||
        p.x_rows != nullptr || p.norm != nullptr || p.swiglu != nullptr)
      return false;
  }
  while (!products.empty()) {
    Place place;
    Launch launch;
    launch.products = first_run(products, place);
    if (is_bf16(launch.first())) {
      plan_bf16(device, launch);
      if (!bf16_products_take_bf16(device, launch.bf16())) return false;
    } else {
      DenseShape shape = shape_of(launch.products, place);
      shape.bf16_x = true;
      if (!dense_takes_bf16(device, shape)) return false;
    }
    products = products.subspan(launch.products.size());
  }
  return true;
}

void grouped_matmul_bf16_input(device::ExecContext& ctx, Products products, const uint16_t* x) {
  CACHALOT_CHECK(x != nullptr && products_take_bf16_input(ctx, products));
  for (const MatmulParams& p : products) {
    CACHALOT_CHECK(p.x == products[0].x);
    if (ctx.work != nullptr) count_product(*p.w, p.m, *ctx.work);
  }
  while (!products.empty()) {
    const Launch launch = plan_launch(device::cuda::device_of(ctx), products, x);
    run_launch(ctx, launch, {});
    products = products.subspan(launch.products.size());
  }
}

// Launches that follow each other run beside each other where they can.
void grouped_matmul_cuda(device::ExecContext& ctx, Products products) {
  if (products.empty()) return;
  const MatmulParams& all = products[0];
  std::optional<Launch> planned;
  LaunchOrder order;
  bool is_made = false;
  // next: of the call; null after the last.
  const auto run_planned = [&](const Launch* next) {
    if (!planned) return;
    const bool beside =
        planned->overlaps && (next != nullptr ? next->overlaps : all.lets_next_in != nullptr);
    order.lets_next_in = beside && !order.runs_beside;
    run_launch(ctx, *planned, order);
    planned.reset();
    order = {};
    order.runs_beside = beside;
  };
  while (!products.empty()) {
    const MatmulParams& first = products[0];
    CACHALOT_CHECK(!first.accumulate);  // training's
    size_t count = 1;
    if (first.m > 0 && first.w->on_gpu() == OnGpu::panels) {
      run_planned(nullptr);
      order = {};
      if (!is_made) make_input(ctx, all, nullptr, order);
      packed_product(ctx, first);
      is_made = true;
    } else if (first.m > 0) {
      Launch next = plan_launch(device::cuda::device_of(ctx), products);
      count = next.products.size();
      // Of two beside each other the one with more weights first, which it reads before it waits:
      // those of fp8 are half the bytes, but their x takes longer to get ready.
      if (planned && planned->overlaps && next.overlaps && !order.runs_beside &&
          next.num_weights() > planned->num_weights())
        std::swap(*planned, next);
      run_planned(&next);
      if (!is_made)
        make_input(ctx, all, next.products.size() == products.size() ? &next : nullptr, order);
      is_made = true;
      planned = next;
    }
    products = products.subspan(count);
  }
  const bool is_launch = planned.has_value();
  run_planned(nullptr);
  if (all.lets_next_in != nullptr) *all.lets_next_in = is_launch && order.runs_beside;
}

}  // namespace cachalot::ops
