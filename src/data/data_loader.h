// The stream of training packs: documents of several datasets, mixed by tokens, packed together and
// shuffled.
// Source   reference/training 5.3 (FIM), 5.4 (packing across sources), 7.1 (data of step t + dt
//          known at step t).
//
// The stream is cut into windows of about window_packs * sequence_length tokens. A window's
// documents are drawn one by one, always from the dataset that is furthest behind its share of
// tokens, in the dataset's order of the epoch (a keyed permutation); best_fit_packing packs the
// window, and its packs come in a keyed order. So memory is bounded by a window, no document is cut
// that fits, and a share is kept in every window to within one document. What a window's last packs
// leave empty is about half a pack.
//
// Exact    A pack is a pure function of (configuration, datasets, place in the stream). How packs
//          are grouped into steps does not change them; nor do threads, reading ahead, or a restart
//          from a cursor.
// Threads  One owner; read() alone may be called concurrently.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "data/dataset.h"
#include "data/fim.h"
#include "data/loader_cursor.h"

namespace cachalot::data {

struct MixEntry {
  Dataset dataset;
  double weight = 1;  // share of tokens is weight over the sum of weights; > 0
};

struct LoaderConfig {
  int64_t sequence_length = 4096;
  int64_t window_packs = 1024;
  uint64_t seed = 0;
  bool shuffle = true;  // false: documents and packs in their own order
  double fim_rate = 0;  // reference/training 5.3 has 0.1; needs fim_tokens
  std::optional<FimTokens> fim_tokens = std::nullopt;
  // Tokens at a document's ends that FIM leaves in place: 1 where documents begin with bos, 1 where
  // they end with eos.
  int64_t fim_keep_first = 0;
  int64_t fim_keep_last = 0;
};

// A piece of a document in a pack: tokens [begin, begin + length) of it, as rearranged where fim is
// set, at pack_begin.
struct Sample {
  int64_t dataset = 0;
  int64_t epoch = 0;
  int64_t shard = 0;
  int64_t document = 0;  // within the shard
  int64_t begin = 0;
  int64_t length = 0;
  int64_t pack_begin = 0;
  std::optional<FimCut> fim = std::nullopt;
};

// At most sequence_length tokens; there is no padding in memory. Samples fill it without gaps.
struct Pack {
  std::vector<int32_t> tokens;
  std::vector<float> weights;  // of the tokens as targets; empty: no source has any, all weigh 1
  std::vector<Sample> samples;
  // First position of each sample, for shifted_labels().
  std::vector<int64_t> sample_begins() const;
};

// What a step trains on, before any token is read: ranks and read-ahead take the packs they need.
struct StepPlan {
  std::vector<std::vector<Sample>> packs;
  LoaderCursor next;
};

struct Batch {
  std::vector<Pack> packs;
  LoaderCursor next;
};

class DataLoader {
 public:
  static Result<DataLoader> create(const LoaderConfig& config, std::vector<MixEntry> mix);

  const LoaderConfig& config() const { return config_; }
  LoaderCursor start() const;

  // The next num_packs packs from cursor on. The cursor must be this loader's (check_cursor); one
  // from elsewhere is a caller bug. Cost: a window's planning when the cursor enters one; the last
  // three stay in memory, so that a cursor that runs ahead does not make the other one plan again.
  StepPlan plan(const LoaderCursor& cursor, int64_t num_packs);
  // Tokens of a planned pack.
  Result<Pack> read(const std::vector<Sample>& samples) const;
  // plan() and read() of all its packs, spread over threads if there are any.
  Result<Batch> batch(const LoaderCursor& cursor, int64_t num_packs, ThreadPool* threads = nullptr);

  // Whether a cursor from a file is this loader's: invalid_argument says what differs (which
  // datasets, else the settings), and the way out.
  Status check_cursor(const LoaderCursor& cursor) const;
  // The next window's start: what is left of the cursor's window is skipped.
  LoaderCursor skip_window(const LoaderCursor& cursor);
  // Goes on from a cursor of another loader with as many datasets (a stage with another sequence
  // length, mix or FIM rate). It must stand at a window's start (skip_window). Shares count from
  // here.
  Result<LoaderCursor> adopt_cursor(const LoaderCursor& cursor) const;

 private:
  struct Window {
    std::vector<SourceCursor> begin;
    int64_t number = 0;
    std::vector<std::vector<Sample>> packs;
    std::vector<SourceCursor> end;
  };
  DataLoader(const LoaderConfig& config, std::vector<MixEntry> mix, uint64_t fingerprint);
  std::shared_ptr<const Window> window_at(const LoaderCursor& cursor);
  std::shared_ptr<const Window> make_window(int64_t number, std::vector<SourceCursor> begin) const;
  Status other_loader(const LoaderCursor& cursor) const;
  Sample whole_document(int64_t dataset, int64_t epoch, int64_t document) const;
  size_t furthest_behind(const std::vector<SourceCursor>& sources) const;

  LoaderConfig config_;
  std::vector<MixEntry> mix_;
  uint64_t fingerprint_;
  std::deque<std::shared_ptr<const Window>> recent_;
};

}  // namespace cachalot::data
