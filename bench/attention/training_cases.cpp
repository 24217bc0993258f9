// One layer of a training step: forward, gradients, the indexer's loss.
#include <memory>

#include "attention/training_sample.h"
#include "attention_cases.h"
#include "ops/attention/attention_target.h"
#include "ops/compressor/compressor_backward.h"

namespace cachalot::bench {
namespace {

constexpr int64_t kRatio = 4;

void add_attention(const char* kind, const SampleShape& shape, int64_t tokens,
                   std::vector<AttentionCase>& cases) {
  auto samples = std::make_shared<Samples>(shape, tokens, 1);
  const double products =
      2.0 * static_cast<double>(samples->num_keys * shape.heads * shape.head_dim);
  const std::string name = kind;
  cases.push_back(
      {name + " forward", tokens, tokens, false, 2 * products, 0,
       [=](device::ExecContext& ctx) { ops::sparse_attention(ctx, samples->forward()); }});
  cases.push_back(
      {name + " backward", tokens, tokens, false, 5 * products, 0, [=](device::ExecContext& ctx) {
         ops::sparse_attention_backward(ctx, samples->backward(0, 1, samples->d_sink.data()));
       }});
  cases.push_back(
      {name + " target", tokens, tokens, false, products, 0, [=](device::ExecContext& ctx) {
         ops::attention_target(ctx, samples->forward(), samples->stride, samples->target.data());
       }});
}

void add_index_loss(const char* kind, const SampleShape& shape, int64_t tokens,
                    std::vector<AttentionCase>& cases) {
  auto indexer = std::make_shared<IndexSamples>(shape, tokens, 1);
  const int64_t width = shape.index_heads * shape.index_dim;
  cases.push_back({kind, tokens, tokens, false,
                   6.0 * static_cast<double>(indexer->samples.num_entries * width), 0,
                   [=](device::ExecContext& ctx) {
                     double total = 0;
                     ops::index_loss(ctx, indexer->loss(0, 1, &total));
                   }});
}

// No products: K and S rows are read, their gradients read and written.
void add_compress(const char* kind, int64_t width, int64_t tokens,
                  std::vector<AttentionCase>& cases) {
  struct State {
    std::vector<float> rows, d_out, d_rows;
  };
  auto state = std::make_shared<State>(State{random_values(tokens * 4 * width),
                                             random_values(tokens / kRatio * width),
                                             std::vector<float>(tokens * 4 * width)});
  cases.push_back({kind, tokens, tokens, false, 0, 48.0 * static_cast<double>(tokens * width),
                   [=](device::ExecContext& ctx) {
                     auto* block = reinterpret_cast<std::byte*>(state->rows.data());
                     const int64_t first_row[] = {0, tokens}, first_position = 0;
                     const tensor::LayerRows no_ring;
                     ops::compress_backward(ctx, {{{1, first_row, &first_position},
                                                   &no_ring,
                                                   tensor::Recent::tail,
                                                   {&block, tokens, {4 * width * 4, 0}},
                                                   kRatio,
                                                   true,
                                                   width,
                                                   nullptr},
                                                  state->d_out.data(),
                                                  state->d_rows.data()});
                   }});
}

}  // namespace

std::vector<AttentionCase> make_training_cases() {
  std::vector<AttentionCase> cases;
  const SampleShape small = {8, 64, 64, 64, 16, 32};
  const SampleShape flash = {64, 512, 128, 512, 64, 128};
  add_attention("small csa", small, 1024, cases);
  add_index_loss("small index loss", small, 1024, cases);
  add_compress("small compress backward", small.head_dim, 1024, cases);
  add_attention("small dense", {8, 64, 64, 0, 16, 32}, 1024, cases);
  add_attention("flash csa", flash, 256, cases);
  add_index_loss("flash index loss", flash, 1024, cases);
  return cases;
}

}  // namespace cachalot::bench
