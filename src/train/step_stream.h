// The data of a run, step by step: which positions of the stream a step trains on, at which
// sequence length, under which schedule. A pure function of the configuration and the place in the
// stream, so a step can be read before its turn (reference/training 7.1) and again.
// Source  reference/training 5.4, 6.3.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "data/data_loader.h"
#include "optim/schedule.h"
#include "train/global_batch.h"

namespace cachalot::train {

// A place in the stream: where a step begins.
struct StreamPosition {
  int64_t step = 0;             // steps before it
  int64_t tokens_seen = 0;      // positions of those steps, what their packs left empty included
  int64_t sequence_length = 0;  // of the loader that made the cursor
  data::LoaderCursor cursor;
  bool operator==(const StreamPosition&) const = default;
};

struct StepInput {
  optim::TrainingPoint point;
  GlobalBatch batch;
  StreamPosition next;
};

class StepStream {
 public:
  // `loader` without its sequence length, which is the schedule's.
  // Errors  the loader's and the schedule's.
  static Result<StepStream> create(const data::LoaderConfig& loader,
                                   std::vector<data::MixEntry> mix,
                                   const optim::TrainingSchedule& schedule,
                                   int64_t micro_batch_tokens);

  StreamPosition start() const { return start_; }
  optim::AttentionStage attention(const StreamPosition& position) const {
    return optim::attention_stage(schedule_.attention, position.tokens_seen);
  }
  // Whether a position from a file is one of this stream.
  Status check(const StreamPosition& position);

  // Nothing once the budget is spent.
  // Errors  the sources'.
  Result<std::optional<StepInput>> read(const StreamPosition& position, ThreadPool* threads);
  // The place after the step at `position`; the same place once the budget is spent.
  Result<StreamPosition> advance(const StreamPosition& position);

 private:
  // What a step reads: num_packs packs of a loader from a cursor on.
  struct Place {
    optim::TrainingPoint point;
    data::DataLoader* loader;
    data::LoaderCursor cursor;
    int64_t num_packs;
  };
  StepStream(const data::LoaderConfig& loader, std::vector<data::MixEntry> mix,
             const optim::TrainingSchedule& schedule, int64_t micro_batch_tokens)
      : config_(loader),
        mix_(std::move(mix)),
        schedule_(schedule),
        micro_batch_tokens_(micro_batch_tokens) {}
  Result<data::DataLoader*> loader_of(int64_t sequence_length);
  Result<std::optional<Place>> place(const StreamPosition& position);

  data::LoaderConfig config_;
  std::vector<data::MixEntry> mix_;
  optim::TrainingSchedule schedule_;
  int64_t micro_batch_tokens_;
  std::map<int64_t, data::DataLoader> loaders_;  // by sequence length
  StreamPosition start_;
};

}  // namespace cachalot::train
