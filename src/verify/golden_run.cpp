#include "verify/golden_run.h"

#include <numeric>

#include "device/floats.h"
#include "engine/model_cache_layout.h"

namespace cachalot::verify {
namespace {

class Recorder : public model::ForwardProbe {
 public:
  Recorder(const formats::ModelConfig& config, int64_t stream_width, PassRecord& record)
      : config_(config), stream_width_(stream_width), record_(record) {}

  void on_streams(int64_t layer, const float* streams, int64_t rows) override {
    append(record_.layer_streams[layer], streams, rows * stream_width_);
  }
  void on_router(int64_t layer, const int32_t* ids, const float* weights, int64_t rows) override {
    append(record_.router_ids[layer], ids, rows * config_.num_experts_per_tok);
    append(record_.router_weights[layer], weights, rows * config_.num_experts_per_tok);
  }
  void on_selection(int64_t layer, const int32_t* selected, int64_t rows) override {
    append(record_.selected[layer], selected, rows * config_.index_topk);
  }

 private:
  template <typename T>
  static void append(std::vector<T>& out, const T* values, int64_t count) {
    out.insert(out.end(), values, values + count);
  }
  const formats::ModelConfig& config_;
  int64_t stream_width_;
  PassRecord& record_;
};

}  // namespace

Result<std::unique_ptr<GoldenRunner>> GoldenRunner::create(const model::Transformer& model,
                                                           device::ExecContext& ctx,
                                                           int64_t max_tokens,
                                                           int64_t num_sequences) {
  CACHALOT_ASSIGN_OR_RETURN(cache::CacheLayout layout,
                            engine::model_cache_layout(model.config(), model.precision(), {}));
  const cache::PoolLimits limits{layout.num_blocks(max_tokens) * num_sequences, num_sequences};
  std::unique_ptr<GoldenRunner> made(new GoldenRunner(model, ctx));
  CACHALOT_ASSIGN_OR_RETURN(made->pool_,
                            cache::BlockPool::create(std::move(layout), limits, ctx.gpu));
  return made;
}

Result<PassRecord> GoldenRunner::run(cache::SequenceCache& sequence,
                                     std::span<const int32_t> tokens,
                                     std::span<const int64_t> pieces, bool with_logits) {
  const model::Transformer& model = runner_.model();
  const int64_t width = model.num_streams() * model.config().hidden_size;
  PassRecord record;
  record.rows = static_cast<int64_t>(tokens.size());
  device::Floats streams(runner_.context());
  streams.make_room(record.rows * width);
  Recorder recorder(model.config(), width, record);
  const int64_t whole[] = {record.rows};
  if (pieces.empty()) pieces = whole;
  int64_t row = 0;
  for (const int64_t piece : pieces) {
    const engine::StepInput input{
        &sequence, tokens.subspan(static_cast<size_t>(row), static_cast<size_t>(piece))};
    CACHALOT_RETURN_IF_ERROR(runner_.forward({&input, 1}, streams.data() + row * width, &recorder));
    row += piece;
  }
  CACHALOT_CHECK(row == record.rows);
  const float* made = streams.on_host(record.rows * width);
  record.streams.assign(made, made + record.rows * width);
  if (with_logits) {
    std::vector<int64_t> rows(static_cast<size_t>(record.rows));
    std::iota(rows.begin(), rows.end(), 0);
    const int64_t count = record.rows * model.config().vocab_size;
    device::Floats logits(runner_.context());
    logits.make_room(count);
    model.logits(runner_.context(), streams.data(), rows, logits.data());
    const float* found = logits.on_host(count);
    record.logits.assign(found, found + count);
  }
  return record;
}

}  // namespace cachalot::verify
