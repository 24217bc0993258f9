#include "model/moe.h"

#include <initializer_list>

#include "autograd/elementwise_grad.h"
#include "autograd/moe_grad.h"
#include "ops/matmul/bf16_rows.h"
#include "ops/moe/balance_loss.h"
#include "ops/moe/dispatch.h"
#include "ops/moe/router.h"
#include "ops/moe/swiglu.h"
#include "ops/rows/together.h"

namespace cachalot::model {
namespace {

struct Routing {
  int32_t* ids;    // [rows, k], ascending within a row
  float* weights;  // [rows, k]
};

const std::vector<int32_t>* replayed_experts(const Step& step, int64_t layer_idx) {
  if (step.terms == nullptr || step.terms->replay == nullptr) return nullptr;
  const auto& by_layer = step.terms->replay->experts;
  const bool has =
      layer_idx < static_cast<int64_t>(by_layer.size()) && !by_layer[layer_idx].empty();
  return has ? &by_layer[layer_idx] : nullptr;
}

// The balance loss of a score-routed layer, and its loads.
void balance(Step& step, int64_t layer_idx, const FfnWeights& weights, const ops::RouterParams& p) {
  TrainingTerms& terms = *step.terms;
  if (weights.bias.empty()) return;
  if (!terms.loads.empty()) {
    auto& loads = terms.loads[layer_idx];
    loads.resize(static_cast<size_t>(p.n_routed_experts));
    ops::add_loads({p.ids, static_cast<size_t>(p.rows * p.num_experts_per_tok)}, loads);
  }
  if (terms.balance_alpha == 0 || p.scores == nullptr) return;
  std::vector<ops::TokenRange> sequences;
  const int64_t* first_row = step.batch.sequences.first_row;
  for (int64_t s = 0; s < step.batch.sequences.count; ++s)
    sequences.push_back({first_row[s], first_row[s + 1]});
  terms.balance_loss += autograd::balance_loss(
      step.context(),
      {p.scores, p.ids, p.n_routed_experts, p.num_experts_per_tok, sequences, terms.balance_alpha},
      terms.balance_weight);
}

// What the choice needs, with the gate's logits.
ops::RouterParams router_params(Step& step, int64_t layer_idx, const FfnWeights& weights,
                                Matrix logits) {
  const auto& config = step.config;
  const int64_t k = config.num_experts_per_tok;
  const int32_t* fixed_ids = nullptr;
  if (!weights.tid2eid.empty()) {
    auto* table_ids = step.exec.arena->allocate<int32_t>(step.rows * k);
    ops::hash_expert_ids(step.exec, weights.tid2eid.data(), step.batch.tokens.data(), step.rows, k,
                         table_ids);
    fixed_ids = table_ids;
  } else if (const std::vector<int32_t>* replayed = replayed_experts(step, layer_idx)) {
    CACHALOT_CHECK(static_cast<int64_t>(replayed->size()) == step.rows * k);
    fixed_ids = replayed->data();
  }
  ops::RouterParams p{};
  p.logits = logits.data;
  p.rows = step.rows;
  p.n_routed_experts = config.n_routed_experts;
  p.num_experts_per_tok = k;
  p.bias = weights.bias.empty() ? nullptr : weights.bias.data();
  p.fixed_ids = fixed_ids;
  p.routed_scaling_factor = static_cast<float>(config.routed_scaling_factor);
  p.ids = step.exec.arena->allocate<int32_t>(step.rows * k);
  p.weights = step.floats(step.rows * k);
  if (step.tape != nullptr || step.terms != nullptr)
    p.scores = step.floats(step.rows * config.n_routed_experts);
  return p;
}

// The choice, once it is made.
Routing chosen_experts(Step& step, int64_t layer_idx, const FfnWeights& weights,
                       const ops::RouterParams& p) {
  const int64_t k = p.num_experts_per_tok;
  const Routing routing{p.ids, p.weights};
  if (step.terms != nullptr) balance(step, layer_idx, weights, p);
  if (step.probe != nullptr) {
    const OnHost<int32_t> ids(step.exec, routing.ids, step.rows * k);
    const OnHost<float> chosen(step.exec, routing.weights, step.rows * k);
    step.probe->on_router(layer_idx, ids.data(), chosen.data(), step.rows);
  }
  show(step, "routing.weights", {routing.weights, k, k}, step.rows);
  return routing;
}

// Pairs (row, choice) in order of expert, then row: the rows of the grouped products.
struct Dispatch {
  int64_t num_pairs;
  int64_t* first_pair;      // by expert, and the end
  int32_t* token_of_pair;   // [pairs]
  float* weight_of_pair;    // [pairs]
  int32_t* pair_of_choice;  // [rows, k]
};

Dispatch dispatch(Step& step, const Routing& routing) {
  const int64_t k = step.config.num_experts_per_tok;
  const int64_t num_pairs = step.rows * k;
  const int64_t num_experts = step.config.n_routed_experts;
  const Dispatch d{num_pairs, step.exec.arena->allocate<int64_t>(num_experts + 1),
                   step.exec.arena->allocate<int32_t>(num_pairs), step.floats(num_pairs),
                   step.exec.arena->allocate<int32_t>(num_pairs)};
  ops::dispatch(step.exec, {routing.ids, step.rows, k, num_experts, d.first_pair, d.token_of_pair,
                            d.pair_of_choice});
  autograd::scatter(step.context(), routing.weights, d.pair_of_choice, num_pairs, d.weight_of_pair);
  return d;
}

// One weight of every expert and where its products go.
struct ExpertPart {
  ops::PackedWeight ExpertWeights::*weight;
  Matrix y;
};

// x_rows: the row of x of each pair; null: its own.
void expert_products(Step& step, const FfnWeights& weights, const Dispatch& d, Matrix x,
                     const int32_t* x_rows, std::initializer_list<ExpertPart> parts) {
  ops::ExpertProductsParams p{};
  p.x = x.data;
  p.x_stride = x.stride;
  p.x_rows = x_rows;
  p.first_pair = d.first_pair;
  p.num_pairs = d.num_pairs;
  p.num_experts = step.config.n_routed_experts;
  for (const ExpertPart& part : parts) {
    p.parts[p.num_parts++] = {
        {&(weights.experts[0].*part.weight), sizeof(ExpertWeights)}, part.y.data, part.y.stride};
  }
  p.math = matmul_math(step, weights.experts[0].w1);
  p.round_y = step.precision.bf16;
  autograd::expert_products(step.context(), p, gradient_format(step, weights.experts[0].w1));
}

// h = silu(gate) * up * weight.
ops::SwigluParams activation(const Step& step, Matrix gate, Matrix up, const float* weight,
                             int64_t rows, float limit, Matrix h) {
  return {gate.data,
          up.data,
          weight,
          rows,
          gate.columns,
          limit,
          step.precision.bf16,
          h.data,
          step.terms == nullptr ? nullptr : &step.terms->clamped};
}

Matrix activate(Step& step, Matrix gate, Matrix up, const float* weight, int64_t rows,
                float limit) {
  const Matrix h = result_over(step, gate, rows);
  autograd::swiglu(step.context(), activation(step, gate, up, weight, rows, limit, h));
  return h;
}

// input: quantised as they ask.
Matrix routed_experts(Step& step, const FfnWeights& weights, const Dispatch& d, Matrix input) {
  const auto& config = step.config;
  const int64_t num_pairs = d.num_pairs;
  const Matrix gate = new_matrix(step, num_pairs, config.moe_intermediate_size);
  const Matrix up = new_matrix(step, num_pairs, config.moe_intermediate_size);
  expert_products(step, weights, d, input, d.token_of_pair,
                  {{&ExpertWeights::w1, gate}, {&ExpertWeights::w3, up}});
  show(step, "experts.gate", gate, num_pairs);
  show(step, "experts.up", up, num_pairs);
  const Matrix activated = activate(step, gate, up, d.weight_of_pair, num_pairs,
                                    static_cast<float>(config.swiglu_limit));
  show(step, "experts.hidden", activated, num_pairs);
  const Matrix hidden = quantised_input(step, activated, num_pairs, weights.experts[0].w2);
  const Matrix y = new_matrix(step, num_pairs, config.hidden_size);
  expert_products(step, weights, d, hidden, nullptr, {{&ExpertWeights::w2, y}});
  show(step, "experts.down", y, num_pairs);
  step.recompute(Recomputed::swiglu, activated.data);
  return y;
}

// The shared expert before its activation.
struct SharedProducts {
  Matrix gate;
  Matrix up;
};

// Adds the products to `parts`. input: quantised as they ask.
SharedProducts add_shared_products(Step& step, const ExpertWeights& weights, Matrix input,
                                   LinearParts& parts) {
  const SharedProducts products{new_matrix(step, step.rows, weights.w1.rows()),
                                new_matrix(step, step.rows, weights.w3.rows())};
  parts.add({input, &weights.w1, products.gate});
  parts.add({input, &weights.w3, products.up});
  return products;
}

void show_shared(Step& step, const SharedProducts& products) {
  show(step, "shared.gate", products.gate, step.rows);
  show(step, "shared.up", products.up, step.rows);
}

// And after it.
Matrix shared_down(Step& step, const ExpertWeights& weights, Matrix h, LinearParts parts = {}) {
  show(step, "shared.hidden", h, step.rows);
  const Matrix y = new_matrix(step, step.rows, weights.w2.rows());
  parts.add({quantised_input(step, h, step.rows, weights.w2), &weights.w2, y});
  linears(step, step.rows, parts);
  show(step, "shared.down", y, step.rows);
  step.recompute(Recomputed::swiglu, h.data);
  return y;
}

Matrix shared_expert(Step& step, const ExpertWeights& weights, Matrix input) {
  LinearParts parts;
  const SharedProducts products = add_shared_products(step, weights, input, parts);
  linears(step, step.rows, parts);
  show_shared(step, products);
  const auto [gate, up] = products;
  const float limit = static_cast<float>(step.config.swiglu_limit);
  const Matrix h = activate(step, gate, up, nullptr, step.rows, limit);
  return shared_down(step, weights, h);
}

// After the activation `hidden`, which it then makes, the same in bf16; null: of many rows alone.
const uint16_t* shared_down_in_bf16(Step& step, const ExpertWeights& weights,
                                    const ops::SwigluParams& hidden) {
  const ops::MatmulParams product =
      rounded_product(step, {hidden.h, hidden.columns, hidden.columns}, weights.w2, {});
  if (step.probe != nullptr || !takes_input_as_it_is(step, weights.w2) ||
      !ops::products_take_bf16(step.exec, {&product, 1}, false, true))
    return nullptr;
  ops::swiglu(step.exec, hidden);
  auto* y = step.exec.arena->allocate<uint16_t>(step.rows * weights.w2.rows());
  ops::grouped_matmul_bf16(step.exec, {&product, 1}, {nullptr, y});
  return y;
}

// The shared expert of many rows with gate, up and hidden in bf16: its first products.
struct Bf16Shared {
  uint16_t* gate_up = nullptr;  // [rows, 2 columns]; null: it is not done so
  int64_t columns = 0;
};
Bf16Shared shared_products_in_bf16(Step& step, const ExpertWeights& weights, Input input) {
  const bool bf16_x = input.bf16 != nullptr;
  const ops::MatmulParams first[] = {rounded_product(step, input.x, weights.w1, {}),
                                     rounded_product(step, input.x, weights.w3, {})};
  const ops::MatmulParams down = rounded_product(step, {}, weights.w2, {});
  constexpr int64_t kManyRows = 256;  // fewer run beside the gate's product
  if (step.rows < kManyRows || step.probe != nullptr || !takes_input_as_it_is(step, weights.w1) ||
      !takes_input_as_it_is(step, weights.w3) || !takes_input_as_it_is(step, weights.w2) ||
      !ops::products_take_bf16(step.exec, first, bf16_x, true, bf16_x) ||
      !ops::products_take_bf16(step.exec, {&down, 1}, true, true))
    return {};
  const Bf16Shared shared{step.exec.arena->allocate<uint16_t>(step.rows * 2 * weights.w1.rows()),
                          weights.w1.rows()};
  ops::grouped_matmul_bf16(step.exec, first, {input.bf16, shared.gate_up, bf16_x});
  return shared;
}
// And the rest.
const uint16_t* shared_down_in_bf16(Step& step, const ExpertWeights& weights,
                                    const Bf16Shared& shared, float limit) {
  const ops::MatmulParams down = rounded_product(step, {}, weights.w2, {});
  auto* h = step.exec.arena->allocate<uint16_t>(step.rows * shared.columns);
  ops::swiglu_bf16(step.exec, {shared.gate_up, shared.gate_up + shared.columns, 2 * shared.columns,
                               step.rows, shared.columns, limit, h});
  auto* y = step.exec.arena->allocate<uint16_t>(step.rows * weights.w2.rows());
  ops::grouped_matmul_bf16(step.exec, {&down, 1}, {h, y});
  return y;
}

// All experts on a GPU that has them streamed. Of few rows the choice is made before the shared
// one's last product, beside which the experts then begin; else beside it.
Output streamed_experts(Step& step, int64_t layer_idx, const FfnWeights& weights, Input given,
                        bool to_boundary) {
  const Matrix x = given.x;
  CACHALOT_CHECK(x.stride == x.columns && step.tape == nullptr);
  const Matrix logits = new_matrix(step, step.rows, weights.gate->rows());
  const ops::RouterParams router = router_params(step, layer_idx, weights, logits);
  LinearParts parts;
  parts.x_bf16 = given.bf16;
  const Matrix input = quantised_input(step, x, step.rows, weights.shared_experts.w1);
  const bool leaves_sum = to_boundary && boundary_takes_sums(step);
  const Bf16Shared in_bf16 = to_boundary && !leaves_sum
                                 ? shared_products_in_bf16(step, weights.shared_experts, given)
                                 : Bf16Shared{};
  SharedProducts products{};
  if (in_bf16.gate_up == nullptr)
    products = add_shared_products(step, weights.shared_experts, input, parts);
  parts.add({x, &*weights.gate, logits, true});
  linears(step, step.rows, parts);
  show(step, "gate", logits, step.rows);
  if (in_bf16.gate_up == nullptr) show_shared(step, products);
  const auto choose = [&](bool beside_products) {
    ops::Together together(step.exec, beside_products);
    step.run_waiting_with(together);
    together.add(router);
  };
  constexpr int64_t kFewRows = 2;
  const bool choose_first = step.rows <= kFewRows;
  if (choose_first) choose(false);
  const auto [gate, up] = products;
  const auto clamp = static_cast<float>(step.config.swiglu_limit);
  const ops::SwigluParams hidden = activation(step, gate, up, nullptr, step.rows, clamp, gate);
  const uint16_t* const shared_bf16 =
      in_bf16.gate_up != nullptr ? shared_down_in_bf16(step, weights.shared_experts, in_bf16, clamp)
      : to_boundary && !leaves_sum ? shared_down_in_bf16(step, weights.shared_experts, hidden)
                                   : nullptr;
  Matrix shared{};
  bool after_down = false;
  if (shared_bf16 == nullptr) {
    LinearParts down;
    down.lets_next_in = &after_down;
    if (step.probe == nullptr && takes_input_as_it_is(step, weights.shared_experts.w2)) {
      down.swiglu = &hidden;
    } else {
      ops::swiglu(step.exec, hidden);
    }
    shared = shared_down(step, weights.shared_experts, gate, down);
  }
  if (!choose_first) choose(after_down);
  const Routing routing = chosen_experts(step, layer_idx, weights, router);
  const int64_t k = step.config.num_experts_per_tok;
  ops::ExpertLayerRows p{.experts = weights.streamed.get(),
                         .rows = step.rows,
                         .k = k,
                         .x = x.data,
                         .ids = routing.ids,
                         .weights = routing.weights,
                         .limit = clamp,
                         .shared = shared.data,
                         .out = nullptr,
                         .x_bf16 = given.bf16,
                         .runs_beside = choose_first && after_down};
  if (leaves_sum) {
    p.picks = step.exec.arena->allocate<uint16_t>(step.rows * k * x.columns);
    ops::expert_layer(step.exec, p);
    return {{}, ops::ExpertSum{p.picks, k, shared.data}};
  }
  if (shared_bf16 != nullptr) {
    p.shared_bf16 = shared_bf16;
    p.out_bf16 = step.exec.arena->allocate<uint16_t>(step.rows * x.columns);
    ops::expert_layer(step.exec, p);
    return {.bf16 = p.out_bf16};
  }
  const Matrix out = new_matrix(step, step.rows, x.columns);
  p.out = out.data;
  ops::expert_layer(step.exec, p);
  show(step, "ffn", out, step.rows);
  return {out};
}

}  // namespace

bool ffn_takes_bf16(const Step& step, const FfnWeights& weights) {
  if (!weights.gate || weights.streamed == nullptr) return false;
  LinearParts parts;  // also of a layer whose shared expert lies in floats
  const auto add = [&](const ops::PackedWeight& weight, bool f32) {
    parts.add({{nullptr, weight.columns(), weight.columns()}, &weight, {}, f32});
  };
  add(weights.shared_experts.w1, false);
  add(weights.shared_experts.w3, false);
  add(*weights.gate, true);
  return step.probe == nullptr && step.tape == nullptr && linears_take_bf16(step, step.rows, parts);
}

ops::WeightsToLay ffn_weights_to_lay(const Step& step, const FfnWeights& weights) {
  const ExpertWeights& shared = weights.shared_experts;
  const ops::MatmulParams first[] = {rounded_product(step, {}, shared.w1, {}),
                                     rounded_product(step, {}, shared.w3, {})};
  const ops::MatmulParams down = rounded_product(step, {}, shared.w2, {});
  ops::WeightsToLay to_lay;
  if (ops::products_lay_weights(step.exec, first, true)) {
    to_lay.add(shared.w1);
    to_lay.add(shared.w3);
  }
  if (ops::products_lay_weights(step.exec, {&down, 1})) to_lay.add(shared.w2);
  return to_lay;
}

Output ffn(Step& step, int64_t layer_idx, const FfnWeights& weights, Input given,
           bool to_boundary) {
  const ops::PackedWeight& shared_w1 = weights.shared_experts.w1;
  const Matrix x = given.x;
  if (!weights.gate) {
    return {shared_expert(step, weights.shared_experts,
                          quantised_input(step, x, step.rows, shared_w1))};
  }
  if (weights.streamed != nullptr)
    return streamed_experts(step, layer_idx, weights, given, to_boundary);
  const Matrix logits = linear_f32(step, x, step.rows, *weights.gate);
  show(step, "gate", logits, step.rows);
  const ops::RouterParams router = router_params(step, layer_idx, weights, logits);
  autograd::route(step.context(), router);
  const Dispatch d = dispatch(step, chosen_experts(step, layer_idx, weights, router));
  const ops::PackedWeight& routed_w1 = weights.experts[0].w1;
  const Matrix input = quantised_input(step, x, step.rows, routed_w1);
  const Matrix routed = routed_experts(step, weights, d, input);
  // Where a tape records, each has an input of its own: the sum of x's gradients has that order.
  const bool shares = step.tape == nullptr && takes_input_as_it_is(step, routed_w1) ==
                                                  takes_input_as_it_is(step, shared_w1);
  const Matrix shared =
      shared_expert(step, weights.shared_experts,
                    shares ? input : quantised_input(step, x, step.rows, shared_w1));
  const Matrix out = new_matrix(step, step.rows, step.config.hidden_size);
  autograd::moe_combine(step.context(), {routed.data, d.pair_of_choice, shared.data, step.rows,
                                         step.config.num_experts_per_tok, out.columns,
                                         step.precision.bf16, out.data});
  show(step, "ffn", out, step.rows);
  return {out};
}

}  // namespace cachalot::model
