#include "optim/optimizer.h"

#include <cstring>
#include <functional>

#include "ops/elementwise/kernel_test.h"
#include "ops/optim/adamw.h"

namespace cachalot::optim {
namespace {

using ops::for_each_context;
using ops::random_values;
using ops::TestContext;

// A handful of parameters of every group, their masters and gradients.
struct Model {
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    std::vector<float> master, grad;
  };
  std::vector<Tensor> tensors;

  Model() {
    add("embed.weight", {50, 8});
    add("norm.weight", {8});
    add("layers.0.hc_attn_fn", {24, 32});
    add("layers.0.hc_attn_base", {24});
    add("layers.0.attn.wo_a.weight", {20, 16});
    add("layers.0.attn.compressor.wkv.weight", {24, 8});
    add("layers.0.ffn.gate.bias", {4});
    for (const char* w : {"w1", "w3"})
      add(std::string("layers.0.ffn.shared_experts.") + w + ".weight", {12, 8});
    add("layers.0.ffn.experts.0.w1.weight", {12, 8});
    add("layers.0.attn.indexer.weights_proj.weight", {2, 8});
  }
  void add(const std::string& name, std::vector<int64_t> shape) {
    int64_t size = 1;
    for (int64_t n : shape) size *= n;
    tensors.push_back({name, std::move(shape), random_values(size, 200 + tensors.size()), {}});
    tensors.back().grad.resize(static_cast<size_t>(size));
  }
  // The gradients of one step, in place: optimizers borrow the addresses.
  void fill_grads(uint64_t step) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto values =
          random_values(static_cast<int64_t>(tensors[i].grad.size()), 1000 * (step + 1) + i);
      std::copy(values.begin(), values.end(), tensors[i].grad.begin());
    }
  }
  std::vector<OptimizedParameter> parameters() {
    std::vector<OptimizedParameter> p;
    for (Tensor& t : tensors) p.push_back({t.name, t.shape, t.master.data(), t.grad.data()});
    return p;
  }
  int64_t find(const std::string& name) const {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].name == name) return static_cast<int64_t>(i);
    }
    return -1;
  }
  Tensor& operator[](const std::string& name) { return tensors[static_cast<size_t>(find(name))]; }
};

OptimizerConfig config() {
  OptimizerConfig c;
  c.grouping = {.head_dim = 12,
                .index_head_dim = 4,
                .num_attention_heads = 2,
                .index_n_heads = 2,
                .o_groups = 2};
  c.max_grad_norm = 0;
  return c;
}

Optimizer make(Model& model, const OptimizerConfig& c = config()) {
  return Optimizer::create(model.parameters(), c).value();
}

void expect_same(const Model& a, const Model& b, const std::string& what) {
  for (size_t i = 0; i < a.tensors.size(); ++i)
    ops::expect_same_values(a.tensors[i].master, b.tensors[i].master,
                            what + " " + a.tensors[i].name);
}

TEST(Optimizer, EveryParameterTakesTheStepOfItsGroup) {
  TestContext ctx(device::machine_isa(), 2);
  Model model, expected;
  Optimizer optimizer = make(model);
  for (uint64_t step = 0; step < 2; ++step) model.fill_grads(step), optimizer.step(ctx, 0.01);

  // By hand: per group, per logical matrix.
  const auto by_muon = [&](const std::string& name, const std::vector<int64_t>& rows) {
    Model::Tensor& t = expected[name];
    std::vector<float> momentum(t.master.size(), 0.0f);
    for (uint64_t step = 0; step < 2; ++step) {
      expected.fill_grads(step);
      int64_t at = 0;
      for (int64_t n : rows) {
        const MuonMatrix matrix{n, t.shape[1], t.master.data() + at, t.grad.data() + at,
                                momentum.data() + at};
        muon_step(ctx, {}, {.learning_rate = 0.01}, {&matrix, 1});
        at += n * t.shape[1];
      }
    }
  };
  by_muon("layers.0.hc_attn_fn", {4, 4, 16});
  by_muon("layers.0.attn.wo_a.weight", {10, 10});
  by_muon("layers.0.attn.compressor.wkv.weight", {12, 12});
  by_muon("layers.0.ffn.shared_experts.w1.weight", {12});
  by_muon("layers.0.ffn.shared_experts.w3.weight", {12});
  by_muon("layers.0.ffn.experts.0.w1.weight", {12});
  by_muon("layers.0.attn.indexer.weights_proj.weight", {2});
  const auto by_adamw = [&](const std::string& name, double weight_decay) {
    Model::Tensor& t = expected[name];
    std::vector<float> m(t.master.size(), 0.0f), v = m;
    for (uint64_t step = 0; step < 2; ++step) {
      expected.fill_grads(step);
      ops::adamw(ctx, {.n = static_cast<int64_t>(m.size()),
                       .g = t.grad.data(),
                       .w = t.master.data(),
                       .m = m.data(),
                       .v = v.data(),
                       .step = static_cast<int64_t>(step) + 1,
                       .learning_rate = 0.01,
                       .weight_decay = weight_decay});
    }
  };
  by_adamw("embed.weight", 0.1);
  by_adamw("norm.weight", 0.1);
  by_adamw("layers.0.hc_attn_base", 0);
  expect_same(expected, model, "by hand");  // the router bias untouched
}

TEST(Optimizer, BitsDoNotDependOnThreadsOrInstructionSet) {
  const auto train = [](device::ExecContext& ctx) {
    Model model;
    OptimizerConfig c = config();
    c.max_grad_norm = 1;
    Optimizer optimizer = make(model, c);
    for (uint64_t step = 0; step < 3; ++step) model.fill_grads(step), optimizer.step(ctx, 0.01);
    return model;
  };
  TestContext reference(device::Isa::reference);
  const Model expected = train(reference);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    expect_same(expected, train(ctx), name);
  });
}

// reference/infrastructure 7.1: all matrices of a step share one run of the threads, here with and
// without each other.
TEST(Optimizer, AParameterHasTheBitsItHasInAnOptimizerOfItsOwn) {
  TestContext ctx(device::machine_isa(), 2);
  Model together, apart;
  Optimizer optimizer = make(together);
  std::vector<Optimizer> own;
  for (const OptimizedParameter& p : apart.parameters())
    own.push_back(Optimizer::create({p}, config()).value());
  for (uint64_t step = 0; step < 3; ++step) {
    together.fill_grads(step), apart.fill_grads(step);
    optimizer.step(ctx, 0.02);
    for (Optimizer& one : own) one.step(ctx, 0.02);
  }
  expect_same(together, apart, "apart");
}

TEST(Optimizer, ResumesFromItsStateBitForBit) {
  TestContext ctx(device::machine_isa(), 2);
  Model undisturbed;
  Optimizer optimizer = make(undisturbed);
  optimizer.set_active(undisturbed.find("norm.weight"), false);
  for (uint64_t step = 0; step < 2; ++step) undisturbed.fill_grads(step), optimizer.step(ctx, 0.01);

  Model resumed = undisturbed;
  Optimizer again = make(resumed);
  std::vector<StateArray> from = optimizer.state(), to = again.state();
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(from[i].name, to[i].name);
    ASSERT_EQ(from[i].bytes.size(), to[i].bytes.size());
    int64_t elements = 1;
    for (int64_t n : from[i].shape) elements *= n;
    ASSERT_EQ(static_cast<int64_t>(from[i].bytes.size()),
              elements * tensor::dtype_bytes(from[i].dtype));
    std::memcpy(to[i].bytes.data(), from[i].bytes.data(), from[i].bytes.size());
  }
  EXPECT_TRUE(again.check_state().ok());
  EXPECT_EQ(again.num_steps(resumed.find("embed.weight")), 2);
  EXPECT_EQ(again.num_steps(resumed.find("norm.weight")), 0);
  optimizer.set_active(undisturbed.find("norm.weight"), true);
  for (uint64_t step = 2; step < 4; ++step) {
    undisturbed.fill_grads(step), resumed.fill_grads(step);
    optimizer.step(ctx, 0.01), again.step(ctx, 0.01);
  }
  expect_same(undisturbed, resumed, "resumed");

  EXPECT_EQ(from[0].name, "embed.weight.exp_avg");
  EXPECT_EQ(from[1].name, "embed.weight.exp_avg_sq");
  EXPECT_EQ(from.back().name, "optimizer.steps");
  EXPECT_EQ(from.back().dtype, tensor::DType::i64);
  const int64_t negative = -1;
  std::memcpy(to.back().bytes.data(), &negative, sizeof(negative));
  EXPECT_EQ(again.check_state().message(),
            "optimizer.steps, embed.weight: expected 0 or more, found -1");
}

TEST(Optimizer, WhatIsNotActiveKeepsEveryBit) {
  TestContext ctx(device::machine_isa(), 2);
  Model model;
  const Model before = model;
  Optimizer optimizer = make(model);
  for (size_t i = 0; i < model.tensors.size(); ++i)
    optimizer.set_active(static_cast<int64_t>(i), is_indexer_parameter(model.tensors[i].name));
  model.fill_grads(0);
  const StepReport report = optimizer.step(ctx, 0.1);
  double squares = 0;  // of the active parameter's gradient only
  for (float g : model["layers.0.attn.indexer.weights_proj.weight"].grad)
    squares += static_cast<double>(g) * g;
  EXPECT_NEAR(report.grad_norm, std::sqrt(squares), 1e-12);
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    EXPECT_EQ(model.tensors[i].master != before.tensors[i].master,
              is_indexer_parameter(model.tensors[i].name))
        << model.tensors[i].name;
  }
  for (const StateArray& array : optimizer.state()) {
    if (is_indexer_parameter(array.name) || array.name == "optimizer.steps") continue;
    for (std::byte b : array.bytes) ASSERT_EQ(b, std::byte{0}) << array.name;
  }
}

TEST(Optimizer, ClipsTheGlobalNorm) {
  TestContext ctx(device::machine_isa(), 2);
  Model clipped, scaled;
  OptimizerConfig c = config();
  c.max_grad_norm = 1;
  Optimizer one = make(clipped, c), other = make(scaled);
  clipped.fill_grads(0), scaled.fill_grads(0);
  const StepReport report = one.step(ctx, 0.01);
  EXPECT_GT(report.grad_norm, 10);
  EXPECT_FLOAT_EQ(report.grad_scale, static_cast<float>(1 / report.grad_norm));
  for (Model::Tensor& t : scaled.tensors) {
    for (float& g : t.grad) g *= report.grad_scale;
  }
  EXPECT_EQ(other.step(ctx, 0.01).grad_scale, 1.0f);
  expect_same(scaled, clipped, "scaled by hand");
}

TEST(Optimizer, ANormThatIsNotFiniteChangesNothing) {
  TestContext ctx(device::machine_isa(), 2);
  Model model;
  Optimizer optimizer = make(model);
  model.fill_grads(0);
  optimizer.step(ctx, 0.01);
  const Model before = model;
  for (float bad : {ops::kNan, ops::kInf}) {
    model.fill_grads(1);
    model["norm.weight"].grad[3] = bad;
    EXPECT_TRUE(optimizer.step(ctx, 0.01).skipped);
    expect_same(before, model, "skipped");
    EXPECT_EQ(optimizer.num_steps(0), 1);
  }
  model.fill_grads(1);
  EXPECT_FALSE(optimizer.step(ctx, 0.01).skipped);
  EXPECT_EQ(optimizer.num_steps(0), 2);
}

TEST(Optimizer, ReportsTheSizeOfUpdates) {
  TestContext ctx(device::machine_isa(), 2);
  Model model;
  Optimizer optimizer = make(model);
  model.fill_grads(0);
  std::vector<UpdateRms> updates;
  optimizer.step(ctx, 0.01, &updates);
  ASSERT_EQ(updates.size(), model.tensors.size() - 1);  // not the router bias
  for (const UpdateRms& u : updates) {
    const ParameterGroup group =
        optimizer.audit().rows[static_cast<size_t>(model.find(u.name))].rule.group;
    // Muon's by construction, within M3's bounds; AdamW's first step is the sign of the gradient.
    // Weights of order 1 are rounded to 2^-24, a step of 0.01 shows that as 2^-24 / 0.01 = 6e-6.
    EXPECT_NEAR(u.rms, group == ParameterGroup::muon ? 0.18 : 1, 5e-4) << u.name;
  }
}

TEST(Optimizer, ErrorsNameWhatIsWrong) {
  Model model;
  const auto error = [&](const std::function<void(OptimizerConfig&)>& change) {
    OptimizerConfig c = config();
    change(c);
    const auto result = Optimizer::create(model.parameters(), c);
    return result.has_value() ? std::string() : result.error().message();
  };
  EXPECT_EQ(error([](auto&) {}), "");
  EXPECT_EQ(error([](auto& c) { c.muon.momentum = 1; }),
            "muon.momentum: expected 0 to below 1, found 1");
  EXPECT_EQ(error([](auto& c) { c.adamw.beta2 = -0.5; }),
            "adamw.beta2: expected 0 to below 1, found -0.5");
  EXPECT_EQ(error([](auto& c) { c.adamw.eps = 0; }),
            "adamw.eps: expected a positive float, found 0");
  EXPECT_EQ(error([](auto& c) { c.max_grad_norm = ops::kNan; }),
            "max_grad_norm: expected a number from 0 on, found nan");
  EXPECT_NE(error([](auto& c) { c.grouping.o_groups = 3; }).find("wo_a.weight: expected"),
            std::string::npos);
  auto parameters = model.parameters();
  parameters[0].grad = nullptr;
  EXPECT_EQ(Optimizer::create(parameters, config()).error().message(),
            "embed.weight: expected a master and a gradient, found none");
  parameters = model.parameters();
  parameters[6].grad = nullptr;  // the router bias needs none
  EXPECT_TRUE(Optimizer::create(parameters, config()).has_value());
}

}  // namespace
}  // namespace cachalot::optim
