#include "engine/step_runner.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "cache/ring_rows.h"
#include "ops/loss/label_logprob.h"
#include "ops/rows/rows.h"

namespace cachalot::engine {
namespace {

constexpr int64_t kStepsBetweenDraftless = 32;
constexpr int64_t kLogitRows = 64;  // of prompts, held at a time

}  // namespace

int64_t StepRunner::width() const {
  return runner_.model().num_streams() * runner_.model().config().hidden_size;
}

void StepRunner::launch(std::span<const Rows> rows) {
  rows_.clear();
  first_rows_.clear();
  inputs_.clear();
  recorder_.clear();
  int64_t total = 0;
  for (const Rows& planned : rows) {
    Generation& generation = *planned.generation;
    cache::SequenceCache& cache = *generation.sequence().cache;
    const std::span<const int32_t> tokens = generation.plan(planned.count);
    if (Status room = cache.reserve(cache.num_tokens() + planned.count); !room.ok()) {
      generation.fail(std::move(room));
      continue;
    }
    if (generation.wants_choices()) recorder_.add(&generation, total);
    rows_.push_back(planned);
    first_rows_.push_back(total);
    inputs_.push_back({&cache, tokens});
    total += planned.count;
  }
  if (rows_.empty()) return;
  streams_.make_room(total * width());
  const Status ran =
      runner_.forward(inputs_, streams_.data(), recorder_.is_empty() ? nullptr : &recorder_);
  if (ran.ok()) return;
  for (const Rows& planned : rows_) planned.generation->fail(ran);
  rows_.clear();
}

bool StepRunner::go_on() {
  going_on_.clear();
  logit_rows_.clear();
  sampling_rows_.clear();
  for (size_t i = 0; i < rows_.size(); ++i) {
    Generation& generation = *rows_[i].generation;
    CACHALOT_CHECK(rows_[i].is_decoded && rows_[i].count == 1 && generation.can_go_on());
    going_on_.push_back(&*generation.sequence().cache);
    logit_rows_.push_back(first_rows_[i]);
    generation.add_sampling_rows(sampling_rows_);
    first_rows_[i] = static_cast<int64_t>(i);
  }
  make_logits(false);
  drawing_.start(runner_.context(), sample_params());
  is_drawn_ = true;
  has_next_ = runner_.forward_drawn(going_on_, drawing_.ids(), streams_.data()).ok();
  return has_next_;
}

void StepRunner::drop_finished() {
  size_t num_left = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    Generation& generation = *rows_[i].generation;
    if (generation.is_finished()) {
      cache::SequenceCache& cache = *generation.sequence().cache;
      CACHALOT_CHECK(cache.rewind(cache.num_tokens() - 1).ok());  // can_go_on()
      continue;
    }
    rows_[num_left] = rows_[i];
    first_rows_[num_left++] = first_rows_[i];
  }
  rows_.resize(num_left);
  first_rows_.resize(num_left);
}

void StepRunner::drop_all() { rows_.clear(); }

double StepRunner::collect(CostModel& cost) {
  if (rows_.empty()) return 0;
  take_decoded();
  if (is_drawn_) {
    is_drawn_ = false;
    cost.since_draftless = 0;
    if (!std::exchange(has_next_, false)) rows_.clear();
    return 0;
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    Generation& generation = *rows_[i].generation;
    if (rows_[i].is_decoded) continue;
    take_prompt_logprobs(rows_[i], first_rows_[i]);
    if (generation.wants_prompt_logits()) give_prompt_logits(rows_[i], first_rows_[i]);
    if (!generation.is_finished()) generation.take_prompt(clock_());
  }
  const double seconds = draft(cost);
  rows_.clear();
  return seconds;
}

Status StepRunner::take_shortage() {
  device::ExecContext& ctx = runner_.context();
  Status shortage = ctx.gpu != nullptr ? ctx.gpu->take_shortage() : Status();
  if (shortage.ok()) return shortage;
  ctx.arena->give_back();
  for (device::Floats* floats : {&streams_, &logits_, &given_, &made_}) floats->give_back();
  return shortage;
}

bool StepRunner::draw_decoded() {
  logit_rows_.clear();
  sampling_rows_.clear();
  bool wants_sets = false;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (!rows_[i].is_decoded) continue;
    for (int64_t r = 0; r < rows_[i].count; ++r) logit_rows_.push_back(first_rows_[i] + r);
    rows_[i].generation->add_sampling_rows(sampling_rows_);
    const Request& request = rows_[i].generation->request();
    wants_sets = wants_sets || request.wants_allowed_sets || request.wants_label_logprobs;
  }
  if (logit_rows_.empty()) return false;
  make_logits(false);
  const int64_t words = ops::id_set_words(runner_.model().config().vocab_size);
  if (wants_sets) id_sets_.resize(logit_rows_.size() * static_cast<size_t>(words));
  sample(wants_sets ? id_sets_.data() : nullptr);
  return wants_sets;
}

void StepRunner::take_decoded() {
  bool wants_sets = false;
  if (is_drawn_) {
    drawing_.finish(runner_.context(), sampled_);
    find_faulty();
  } else {
    wants_sets = draw_decoded();
  }
  const int64_t words = ops::id_set_words(runner_.model().config().vocab_size);
  give_label_logprobs();
  int64_t row = 0;
  for (const Rows& rows : rows_) {
    if (!rows.is_decoded) continue;
    rows.generation->take(sampled_.data() + row, faulty_logits(row),
                          wants_sets ? id_sets_.data() + row * words : nullptr,
                          {top_.data() + row * top_stride_, top_stride_}, clock_());
    row += rows.count;
  }
}

void StepRunner::give_label_logprobs() {
  static_assert(std::endian::native == std::endian::little);  // words of a set as its bytes
  struct LabelRow {
    int64_t row;
    float temperature;
  };
  std::vector<LabelRow> label_rows;
  int64_t first_row = 0;
  for (const Rows& rows : rows_) {
    if (!rows.is_decoded) continue;
    const Request& request = rows.generation->request();
    for (int64_t row = first_row; request.wants_label_logprobs && row < first_row + rows.count;
         ++row) {
      if (sampled_[row].fault != ops::SamplingFault::none) break;  // nothing after it counts
      label_rows.push_back({row, static_cast<float>(request.sampling.temperature)});
    }
    first_row += rows.count;
  }
  if (label_rows.empty()) return;
  const int64_t vocab_size = runner_.model().config().vocab_size;
  const auto words = ops::id_set_words(vocab_size);
  // The trainer's op, which runs on the host.
  const device::ExecContext& ctx = runner_.context();
  device::Arena arena;
  device::ExecContext host{ctx.pool, ctx.gpu == nullptr ? ctx.arena : &arena, ctx.isa};
  const float* logits = logits_.on_host(static_cast<int64_t>(logit_rows_.size()) * vocab_size);
  std::vector<int32_t> labels;
  std::vector<double> logprobs;
  // Neighbours of one temperature are one call.
  for (auto first = label_rows.begin(), last = first; first != label_rows.end(); first = last) {
    last = std::adjacent_find(first, label_rows.end(), [](const LabelRow& a, const LabelRow& b) {
      return b.row != a.row + 1 || b.temperature != a.temperature;
    });
    if (last != label_rows.end()) ++last;
    const std::span<ops::SampledToken> tokens(&sampled_[first->row],
                                              static_cast<size_t>(last - first));
    labels.clear();
    for (const ops::SampledToken& token : tokens) labels.push_back(token.id);
    logprobs.resize(tokens.size());
    ops::LabelLogprobParams p{};
    p.logits = logits + first->row * vocab_size;
    p.logits_stride = vocab_size;
    p.labels = labels.data();
    p.rows = std::ssize(labels);
    p.vocab_size = vocab_size;
    p.allowed = reinterpret_cast<const uint8_t*>(id_sets_.data() + first->row * words);
    p.allowed_stride = words * 8;
    p.temperature = first->temperature;
    p.logprobs = logprobs.data();
    ops::label_logprob(host, p);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i].logprob = logprobs[i];
  }
}

void StepRunner::make_logits(bool of_mtp) {
  const model::Transformer& model = runner_.model();
  const int64_t count = static_cast<int64_t>(logit_rows_.size()) * model.config().vocab_size;
  logits_.make_room(count);
  if (of_mtp) {
    model.mtp_logits(runner_.context(), 0, made_.data(), logit_rows_, logits_.data());
  } else {
    model.logits(runner_.context(), streams_.data(), logit_rows_, logits_.data());
  }
}

ops::SampleParams StepRunner::sample_params() {
  const int64_t vocab_size = runner_.model().config().vocab_size;
  sampled_.resize(sampling_rows_.size());
  top_stride_ = 0;
  for (const ops::SamplingRow& row : sampling_rows_)
    top_stride_ = std::max(top_stride_, row.num_top);
  top_.resize(sampling_rows_.size() * static_cast<size_t>(top_stride_));
  ops::SampleParams p{logits_.data(),
                      vocab_size,
                      static_cast<int64_t>(sampling_rows_.size()),
                      vocab_size,
                      sampling_rows_.data(),
                      sampled_.data()};
  p.top = top_.data();
  p.top_stride = top_stride_;
  return p;
}

void StepRunner::sample(uint64_t* allowed) {
  ops::SampleParams p = sample_params();
  p.allowed = allowed;
  ops::sample(runner_.context(), p);
  find_faulty();
}

void StepRunner::find_faulty() {
  const bool is_faulty = std::ranges::any_of(sampled_, [](const ops::SampledToken& token) {
    return token.fault != ops::SamplingFault::none;
  });
  const int64_t count = static_cast<int64_t>(sampled_.size()) * runner_.model().config().vocab_size;
  host_logits_ = is_faulty ? logits_.on_host(count) : nullptr;
}

void StepRunner::take_prompt_logprobs(const Rows& rows, int64_t first_row) {
  Generation& generation = *rows.generation;
  for (int64_t r = 0; r < rows.count && !generation.is_finished();) {
    logit_rows_.clear();
    const int64_t position = generation.first_planned();
    for (; r < rows.count && static_cast<int64_t>(logit_rows_.size()) < kLogitRows; ++r) {
      if (!generation.wants_prompt_logprob(position + r)) continue;
      logit_rows_.push_back(first_row + r);
    }
    if (logit_rows_.empty()) return;
    make_logits(false);
    // A row that may draw one token alone tells what the model gives that one.
    const auto words = static_cast<size_t>(ops::id_set_words(runner_.model().config().vocab_size));
    id_sets_.assign(logit_rows_.size() * words, 0);
    sampling_rows_.clear();
    for (size_t i = 0; i < logit_rows_.size(); ++i) {
      const int32_t token = generation.token_after(position + logit_rows_[i] - first_row);
      uint64_t* set = id_sets_.data() + i * words;
      set[token / 64] |= uint64_t{1} << (token % 64);
      ops::SamplingRow& row = sampling_rows_.emplace_back();
      row.temperature = 0;
      row.mask = set;
      row.wants_model_logprob = true;
      row.num_top = std::max<int64_t>(generation.request().num_top_logprobs, 0);
    }
    sample(nullptr);
    for (size_t i = 0; i < logit_rows_.size() && !generation.is_finished(); ++i) {
      generation.take_prompt_logprob(position + logit_rows_[i] - first_row, sampled_[i],
                                     faulty_logits(static_cast<int64_t>(i)),
                                     top_.data() + i * static_cast<size_t>(top_stride_));
    }
  }
}

void StepRunner::give_prompt_logits(const Rows& rows, int64_t first_row) {
  Generation& generation = *rows.generation;
  const auto vocab_size = static_cast<size_t>(runner_.model().config().vocab_size);
  for (int64_t first = 0; first < rows.count; first += kLogitRows) {
    logit_rows_.clear();
    for (int64_t r = first; r < std::min(rows.count, first + kLogitRows); ++r)
      logit_rows_.push_back(first_row + r);
    make_logits(false);
    const float* logits = logits_.on_host(static_cast<int64_t>(logit_rows_.size() * vocab_size));
    for (size_t i = 0; i < logit_rows_.size(); ++i) {
      const int64_t position = generation.first_planned() + first + static_cast<int64_t>(i);
      if (!generation.take_prompt_logits(position, {logits + i * vocab_size, vocab_size}))
        return generation.finish(Finish::cancelled, clock_());
    }
  }
}

void StepRunner::add_pairs(Generation& generation, int64_t first_row) {
  Sequence& sequence = generation.sequence();
  const int64_t first = generation.first_planned(), count = generation.num_standing();
  const int64_t mtp_layer = runner_.model().config().num_hidden_layers;
  cache::clear_rows(runner_.context().gpu, sequence.cache->views(mtp_layer).window,
                    sequence.mtp_end, first);
  sequence.mtp_end = first + count;
  inputs_.push_back(
      {&*sequence.cache, std::span(sequence.tokens)
                             .subspan(static_cast<size_t>(first + 1), static_cast<size_t>(count))});
  positions_.push_back(first);
  give(row(first_row), count);
}

void StepRunner::give(const float* streams, int64_t rows) {
  ops::copy_rows(runner_.context(),
                 {streams, width(), rows, width(), given_.data() + num_given_ * width(), width()});
  num_given_ += rows;
}

void StepRunner::run_mtp() {
  made_.make_room(num_given_ * width());
  const Status ran = runner_.mtp_forward(0, inputs_, positions_, given_.data(), made_.data());
  CACHALOT_CHECK(ran.ok());  // its rows have their place
}

void StepRunner::take_drafts() {
  logit_rows_.clear();
  for (const Draft& draft : drafts_) logit_rows_.push_back(draft.last_row);
  make_logits(true);
  ops::SamplingRow greedy;
  greedy.temperature = 0;
  sampling_rows_.assign(drafts_.size(), greedy);
  sample(nullptr);
  inputs_.clear();
  positions_.clear();
  num_given_ = 0;
  size_t num_left = 0;
  for (size_t i = 0; i < drafts_.size(); ++i) {
    Draft draft = drafts_[i];
    Generation& generation = *draft.generation;
    // A row of faulty logits proposes nothing more.
    if (sampled_[i].fault != ops::SamplingFault::none) continue;
    generation.take_draft(sampled_[i].id);
    const auto drafted = static_cast<int64_t>(generation.drafts().size());
    if (drafted == draft.wanted) continue;
    give(made_.data() + draft.last_row * width(), 1);
    inputs_.push_back({&*generation.sequence().cache, generation.drafts().last(1)});
    positions_.push_back(generation.sequence().num_cached() - 1 + drafted);
    draft.last_row = static_cast<int64_t>(num_left);
    drafts_[num_left++] = draft;
  }
  drafts_.resize(num_left);
}

// Pairs (streams of p, token p + 1) up to the last token known, and drafts from there.
double StepRunner::draft(CostModel& cost) {
  const double start_s = clock_();
  inputs_.clear();
  positions_.clear();
  num_given_ = 0;
  given_.make_room((first_rows_.back() + rows_.back().count) * width());
  drafts_.clear();
  // Now and then a step goes without, so that what it takes stays known.
  const bool is_draftless = cost.since_draftless >= kStepsBetweenDraftless;
  int64_t num_decoded = 0;
  for (const Rows& rows : rows_) num_decoded += rows.is_decoded ? 1 : 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    Generation& generation = *rows_[i].generation;
    if (!generation.fills_mtp()) continue;
    if (rows_[i].is_decoded) {
      if (is_draftless && generation.request().adapts_drafts) continue;
      const int64_t wanted = generation.wanted_drafts(cost, num_decoded);
      if (wanted == 0) continue;
      add_pairs(generation, first_rows_[i]);
      drafts_.push_back({&generation, wanted, num_given_ - 1});
    } else {
      add_pairs(generation, first_rows_[i]);
    }
  }
  const auto num_drafting = static_cast<int64_t>(drafts_.size());
  cost.since_draftless = num_drafting > 0 ? cost.since_draftless + 1 : 0;
  if (inputs_.empty()) return 0;
  int64_t num_passes = 0;
  do {
    run_mtp();
    ++num_passes;
    if (!drafts_.empty()) take_drafts();
  } while (!drafts_.empty());
  const double seconds = clock_() - start_s;
  // A pass with pieces of prompts says nothing of one without.
  if (num_drafting == num_decoded && num_decoded == static_cast<int64_t>(rows_.size()))
    cost.draft_pass.record(num_drafting, seconds / static_cast<double>(num_passes));
  return seconds;
}

}  // namespace cachalot::engine
