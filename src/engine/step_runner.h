// Runs the planned rows of many answers as one step: one forward pass, the logits of the rows that
// need them, one pass of the MTP block a draft. Internal to engine/.
//
// Use     launch(), then collect(); what is between them may not touch the answers of the step.
//         Sampling of all rows is collect()'s, or go_on()'s, which comes before it: then the next
//         step is under way when collect() returns, and its own go_on() and collect() are next.
// Threads one owner.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "device/floats.h"
#include "engine/choice_recorder.h"
#include "engine/runner.h"

namespace cachalot::engine {

class StepRunner {
 public:
  struct Rows {
    Generation* generation;
    int64_t count;
    bool is_decoded;
  };

  // Borrows all.
  StepRunner(const model::Transformer& model, device::ExecContext& ctx,
             const std::function<double()>& clock)
      : runner_(model, ctx),
        clock_(clock),
        recorder_(model.config()),
        streams_(ctx),
        logits_(ctx),
        given_(ctx),
        made_(ctx) {}

  Runner& runner() { return runner_; }

  // Makes room for the rows and runs them. An answer that gets no room fails; the others go on.
  void launch(std::span<const Rows> rows);
  bool is_under_way() const { return !rows_.empty(); }
  // Of a step of decoded rows, one an answer, each of which can_go_on(): draws their tokens and
  // launches the step of these, which nobody has read yet. False: there is no room for it.
  bool go_on();
  // Gives every answer what came of its rows, and drafts. Adds to `cost` what drafting took, and
  // returns it in seconds.
  double collect(CostModel& cost);
  // Answers that have finished have no rows in the step under way: their caches step back.
  void drop_finished();
  void drop_all();  // rows; the caches are the caller's matter
  // What the step was short of on a GPU: it ran with the host's memory, which has been given back.
  // ok: nothing. Between steps.
  Status take_shortage();

 private:
  struct Draft {
    Generation* generation;
    int64_t wanted;
    int64_t last_row;  // of its rows in the MTP block's last pass
  };
  int64_t width() const;
  // logits_ and sampling_rows_ to sampled_, top_ and host_logits_; the allowed sets where `allowed`
  // is not null.
  void sample(uint64_t* allowed);
  ops::SampleParams sample_params();
  void find_faulty();
  // Logits of logit_rows_ of the streams: the model's, or the MTP block's.
  void make_logits(bool of_mtp);
  const float* faulty_logits(int64_t row) const {
    return host_logits_ == nullptr ? nullptr
                                   : host_logits_ + row * runner_.model().config().vocab_size;
  }
  const float* row(int64_t i) { return streams_.data() + i * width(); }
  // Whether the allowed sets are asked for.
  bool draw_decoded();
  void take_decoded();
  // Where a request asks for them, in place of its sampled tokens' log-probabilities.
  void give_label_logprobs();
  void take_prompt_logprobs(const Rows& rows, int64_t first_row);
  void give_prompt_logits(const Rows& rows, int64_t first_row);
  double draft(CostModel& cost);
  // The answer's standing rows, as rows of the MTP block.
  void add_pairs(Generation& generation, int64_t first_row);
  void give(const float* streams, int64_t rows);  // more rows of given_
  void run_mtp();
  // One more draft for each of drafts_; then the next rows of those that want more.
  void take_drafts();

  Runner runner_;
  const std::function<double()>& clock_;
  ChoiceRecorder recorder_;
  std::vector<Rows> rows_;
  std::vector<int64_t> first_rows_;
  std::vector<StepInput> inputs_;
  device::Floats streams_;  // [rows, width]
  std::vector<int64_t> logit_rows_;
  device::Floats logits_;
  // What logits_ holds, on the host, where a row of it is faulty: else nobody reads them. Or null.
  const float* host_logits_ = nullptr;
  std::vector<ops::SamplingRow> sampling_rows_;
  std::vector<ops::SampledToken> sampled_;
  ops::Drawing drawing_;
  bool is_drawn_ = false;  // the step under way, by drawing_
  bool has_next_ = false;  // and the one after it is launched
  std::vector<cache::SequenceCache*> going_on_;
  std::vector<ops::TokenLogprob> top_;  // [rows, top_stride_]
  int64_t top_stride_ = 0;
  std::vector<uint64_t> id_sets_;  // [logit rows, id_set_words]: what may be drawn, or was
  std::vector<Draft> drafts_;
  std::vector<int64_t> positions_;
  device::Floats given_, made_;  // the MTP block's streams, [rows of inputs_, width]
  int64_t num_given_ = 0;
};

}  // namespace cachalot::engine
