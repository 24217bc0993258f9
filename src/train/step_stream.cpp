#include "train/step_stream.h"

#include <fmt/format.h>

namespace cachalot::train {

Result<StepStream> StepStream::create(const data::LoaderConfig& loader,
                                      std::vector<data::MixEntry> mix,
                                      const optim::TrainingSchedule& schedule,
                                      int64_t micro_batch_tokens) {
  CACHALOT_RETURN_IF_ERROR(optim::validate(schedule));
  StepStream stream(loader, std::move(mix), schedule, micro_batch_tokens);
  const int64_t first = optim::sequence_length(schedule.sequence, 0);
  CACHALOT_ASSIGN_OR_RETURN(const data::DataLoader* const first_loader, stream.loader_of(first));
  stream.start_ = {0, 0, first, first_loader->start()};
  return stream;
}

Result<data::DataLoader*> StepStream::loader_of(int64_t sequence_length) {
  const auto found = loaders_.find(sequence_length);
  if (found != loaders_.end()) return &found->second;
  data::LoaderConfig config = config_;
  config.sequence_length = sequence_length;
  CACHALOT_ASSIGN_OR_RETURN(data::DataLoader loader, data::DataLoader::create(config, mix_));
  return &loaders_.emplace(sequence_length, std::move(loader)).first->second;
}

Status StepStream::check(const StreamPosition& position) {
  for (const optim::SequenceStage& stage : schedule_.sequence) {
    if (stage.sequence_length != position.sequence_length) continue;
    CACHALOT_ASSIGN_OR_RETURN(const data::DataLoader* const loader,
                              loader_of(position.sequence_length));
    return loader->check_cursor(position.cursor);
  }
  return invalid_argument(
      fmt::format("stream position: expected a sequence length of the schedule, found {}",
                  position.sequence_length));
}

Result<std::optional<StepStream::Place>> StepStream::place(const StreamPosition& position) {
  const optim::TrainingPoint point =
      optim::training_point(schedule_, position.step, position.tokens_seen);
  if (point.step_tokens == 0) return std::optional<Place>();
  CACHALOT_ASSIGN_OR_RETURN(data::DataLoader* const loader, loader_of(point.sequence_length));
  data::LoaderCursor cursor = position.cursor;
  if (position.sequence_length != point.sequence_length) {
    CACHALOT_ASSIGN_OR_RETURN(data::DataLoader* const before, loader_of(position.sequence_length));
    CACHALOT_ASSIGN_OR_RETURN(cursor, loader->adopt_cursor(before->skip_window(cursor)));
  }
  const int64_t num_packs = (point.step_tokens + point.sequence_length - 1) / point.sequence_length;
  return std::optional<Place>({point, loader, std::move(cursor), num_packs});
}

namespace {
StreamPosition after(const StreamPosition& position, const optim::TrainingPoint& point,
                     data::LoaderCursor cursor) {
  return {position.step + 1, position.tokens_seen + point.step_tokens, point.sequence_length,
          std::move(cursor)};
}
}  // namespace

Result<std::optional<StepInput>> StepStream::read(const StreamPosition& position,
                                                  ThreadPool* threads) {
  CACHALOT_ASSIGN_OR_RETURN(const std::optional<Place> at, place(position));
  if (!at) return std::optional<StepInput>();
  CACHALOT_ASSIGN_OR_RETURN(data::Batch packs,
                            at->loader->batch(at->cursor, at->num_packs, threads));
  return std::optional<StepInput>(
      StepInput{at->point,
                GlobalBatch(std::move(packs.packs), at->point.sequence_length,
                            at->point.step_tokens, micro_batch_tokens_),
                after(position, at->point, std::move(packs.next))});
}

Result<StreamPosition> StepStream::advance(const StreamPosition& position) {
  CACHALOT_ASSIGN_OR_RETURN(const std::optional<Place> at, place(position));
  if (!at) return position;
  return after(position, at->point, at->loader->plan(at->cursor, at->num_packs).next);
}

}  // namespace cachalot::train
