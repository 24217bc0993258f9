#include "data/data_loader.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "data/keyed_permutation.h"
#include "data/packing.h"
#include "data/streams.h"

namespace cachalot::data {
namespace {
constexpr size_t kRecentWindows = 3;
constexpr int64_t kFimInserted = 3;
constexpr int64_t kMaxSequenceLength = int64_t{1} << 32;
constexpr int64_t kMaxWindowPacks = int64_t{1} << 28;

uint64_t fingerprint_of(const LoaderConfig& config, const std::vector<MixEntry>& mix) {
  const FimTokens fim = config.fim_tokens.value_or(FimTokens{-1, -1, -1});
  const auto word = [](auto value) { return static_cast<uint64_t>(value); };
  std::vector<uint64_t> words = {word(config.sequence_length),
                                 word(config.window_packs),
                                 config.seed,
                                 word(config.shuffle),
                                 std::bit_cast<uint64_t>(config.fim_rate),
                                 word(fim.begin),
                                 word(fim.hole),
                                 word(fim.end),
                                 word(config.fim_keep_first),
                                 word(config.fim_keep_last)};
  for (const MixEntry& entry : mix) {
    words.push_back(std::bit_cast<uint64_t>(entry.weight));
    words.push_back(entry.dataset.fingerprint());
  }
  return XXH3_64bits(words.data(), words.size() * sizeof(uint64_t));
}

// The documents of a dataset from a place in an epoch on, epoch after epoch.
class DocumentOrder {
 public:
  DocumentOrder(const LoaderConfig& config, uint32_t dataset, int64_t num_documents)
      : config_(config), dataset_(dataset), num_documents_(num_documents) {}

  // The document at the cursor, which moves on.
  int64_t take(SourceCursor& cursor) {
    int64_t document = cursor.document;
    if (config_.shuffle) {
      if (!permutation_ || epoch_ != cursor.epoch) {
        epoch_ = cursor.epoch;
        permutation_.emplace(num_documents_,
                             data_stream(config_.seed, DataUse::document_order, dataset_,
                                         static_cast<uint64_t>(epoch_), 0));
      }
      document = permutation_->at(document);
    }
    if (++cursor.document == num_documents_) {
      cursor.document = 0;
      ++cursor.epoch;
    }
    return document;
  }

 private:
  const LoaderConfig& config_;
  uint32_t dataset_;
  int64_t num_documents_;
  int64_t epoch_ = 0;
  std::optional<KeyedPermutation> permutation_;
};

// Before the sample's tokens are there.
Status read_weights(const TokenSource& source, const Sample& sample, Pack& pack) {
  if (!source.has_weights() && pack.weights.empty()) return {};
  pack.weights.resize(pack.tokens.size() + static_cast<size_t>(sample.length), 1.0f);
  if (!source.has_weights()) return {};
  return source.read_weights(sample.document, sample.begin,
                             std::span(pack.weights).last(static_cast<size_t>(sample.length)));
}

Status check_config(const LoaderConfig& config, const std::vector<MixEntry>& mix) {
  const auto fail = [](std::string_view field, std::string_view expected, auto found) {
    return invalid_argument(
        fmt::format("data loader: {}: expected {}, found {}", field, expected, found));
  };
  if (config.sequence_length < 1 || config.sequence_length > kMaxSequenceLength) {
    return fail("sequence_length", "1 to 2^32", config.sequence_length);
  }
  if (config.window_packs < 1 || config.window_packs > kMaxWindowPacks) {
    return fail("window_packs", "1 to 2^28", config.window_packs);
  }
  if (!(config.fim_rate >= 0 && config.fim_rate <= 1)) {
    return fail("fim_rate", "0 to 1", config.fim_rate);
  }
  if (config.fim_rate > 0 && !config.fim_tokens) {
    return fail("fim_tokens", "the tokenizer's three ids where fim_rate > 0", "none");
  }
  if (config.fim_keep_first < 0 || config.fim_keep_last < 0) {
    return fail("fim_keep_first, fim_keep_last", "0 or more",
                std::min(config.fim_keep_first, config.fim_keep_last));
  }
  if (mix.empty()) return fail("mix", "at least one dataset", 0);
  for (const MixEntry& entry : mix) {
    if (!(entry.weight > 0 && std::isfinite(entry.weight))) {
      return fail(fmt::format("weight of {}", entry.dataset.name()), "above 0", entry.weight);
    }
  }
  return {};
}
}  // namespace

std::vector<int64_t> Pack::sample_begins() const {
  std::vector<int64_t> begins;
  for (const Sample& sample : samples) begins.push_back(sample.pack_begin);
  return begins;
}

DataLoader::DataLoader(const LoaderConfig& config, std::vector<MixEntry> mix, uint64_t fingerprint)
    : config_(config), mix_(std::move(mix)), fingerprint_(fingerprint) {}

Result<DataLoader> DataLoader::create(const LoaderConfig& config, std::vector<MixEntry> mix) {
  CACHALOT_RETURN_IF_ERROR(check_config(config, mix));
  const uint64_t fingerprint = fingerprint_of(config, mix);
  return DataLoader(config, std::move(mix), fingerprint);
}

LoaderCursor DataLoader::start() const {
  LoaderCursor cursor;
  cursor.fingerprint = fingerprint_;
  cursor.sources.resize(mix_.size());
  for (const MixEntry& entry : mix_) cursor.datasets.push_back(entry.dataset.fingerprint());
  return cursor;
}

Status DataLoader::other_loader(const LoaderCursor& cursor) const {
  std::string changed;
  if (!cursor.datasets.empty() && cursor.datasets.size() != mix_.size()) {
    changed = fmt::format("{} datasets, where the saved place has {}", mix_.size(),
                          cursor.datasets.size());
  }
  for (size_t i = 0; changed.empty() && i < cursor.datasets.size(); ++i) {
    if (cursor.datasets[i] != mix_[i].dataset.fingerprint())
      changed = fmt::format("other content of dataset \"{}\"", mix_[i].dataset.name());
  }
  if (changed.empty()) {
    changed = cursor.datasets.empty()
                  ? "other ones"
                  : "the same data, and other settings (weights of the mix, sequence length, "
                    "window_packs, seed, shuffle or FIM)";
  }
  return invalid_argument(fmt::format(
      "place in the data: expected the data and settings that it was saved with, found {}; give "
      "those back to go on, or begin a new run from the saved weights (model.init_from)",
      changed));
}

Status DataLoader::check_cursor(const LoaderCursor& cursor) const {
  if (cursor.fingerprint != fingerprint_) return other_loader(cursor);
  if (cursor.sources.size() != mix_.size()) {
    return invalid_argument(fmt::format("data cursor: expected {} datasets, found {}", mix_.size(),
                                        cursor.sources.size()));
  }
  for (size_t i = 0; i < mix_.size(); ++i) {
    if (cursor.sources[i].document >= mix_[i].dataset.num_documents()) {
      return invalid_argument(fmt::format(
          "data cursor: dataset {}: expected a document below {}, found {}", mix_[i].dataset.name(),
          mix_[i].dataset.num_documents(), cursor.sources[i].document));
    }
  }
  return {};
}

// Of the document only what planning needs is looked at: its length, and whether FIM makes it
// longer.
Sample DataLoader::whole_document(int64_t dataset, int64_t epoch, int64_t document) const {
  const Dataset& documents = mix_[static_cast<size_t>(dataset)].dataset;
  const DocumentPlace place = documents.place(document);
  Sample sample = {.dataset = dataset,
                   .epoch = epoch,
                   .shard = place.shard,
                   .document = place.document,
                   .length = documents.shard(place.shard).document_length(place.document)};
  // Text that is rearranged would part from its weights.
  if (config_.fim_rate > 0 && !documents.shard(place.shard).has_weights()) {
    const int64_t kept = config_.fim_keep_first + config_.fim_keep_last;
    sample.fim =
        draw_fim_cut(data_stream(config_.seed, DataUse::fim, static_cast<uint32_t>(dataset),
                                 static_cast<uint64_t>(epoch), static_cast<uint64_t>(document)),
                     std::max<int64_t>(0, sample.length - kept), config_.fim_rate);
    if (sample.fim) sample.length += kFimInserted;
  }
  return sample;
}

// By tokens drawn over weight, the lowest first; ties go to the first dataset.
size_t DataLoader::furthest_behind(const std::vector<SourceCursor>& sources) const {
  size_t best = 0;
  for (size_t i = 1; i < sources.size(); ++i) {
    const auto progress = [&](size_t s) {
      return static_cast<double>(sources[s].tokens) / mix_[s].weight;
    };
    if (progress(i) < progress(best)) best = i;
  }
  return best;
}

std::shared_ptr<const DataLoader::Window> DataLoader::make_window(
    int64_t number, std::vector<SourceCursor> begin) const {
  auto window = std::make_shared<Window>();
  window->number = number;
  window->end = begin;
  window->begin = std::move(begin);
  std::vector<DocumentOrder> orders;
  for (size_t i = 0; i < mix_.size(); ++i) {
    orders.emplace_back(config_, static_cast<uint32_t>(i), mix_[i].dataset.num_documents());
  }
  std::vector<Sample> documents;
  std::vector<int64_t> lengths;
  const int64_t wanted = config_.window_packs * config_.sequence_length;
  for (int64_t drawn = 0; drawn < wanted;) {
    const size_t source = furthest_behind(window->end);
    SourceCursor& cursor = window->end[source];
    const int64_t epoch = cursor.epoch;
    const int64_t document = orders[source].take(cursor);
    const Sample sample = whole_document(static_cast<int64_t>(source), epoch, document);
    cursor.tokens += sample.length;
    drawn += sample.length;
    documents.push_back(sample);
    lengths.push_back(sample.length);
  }

  const Packing packing = best_fit_packing(lengths, config_.sequence_length);
  std::optional<KeyedPermutation> order;
  if (config_.shuffle) {
    order.emplace(packing.num_packs(), data_stream(config_.seed, DataUse::pack_order, 0,
                                                   static_cast<uint64_t>(number), 0));
  }
  for (int64_t i = 0; i < packing.num_packs(); ++i) {
    std::vector<Sample>& pack = window->packs.emplace_back();
    int64_t pack_begin = 0;
    for (const Piece& piece : packing.pack(order ? order->at(i) : i)) {
      Sample sample = documents[static_cast<size_t>(piece.document)];
      sample.begin = piece.begin;
      sample.length = piece.length;
      sample.pack_begin = pack_begin;
      pack_begin += piece.length;
      pack.push_back(sample);
    }
  }
  return window;
}

std::shared_ptr<const DataLoader::Window> DataLoader::window_at(const LoaderCursor& cursor) {
  for (const auto& window : recent_) {
    if (window->number == cursor.window && window->begin == cursor.sources) return window;
  }
  recent_.push_back(make_window(cursor.window, cursor.sources));
  if (recent_.size() > kRecentWindows) recent_.pop_front();
  return recent_.back();
}

StepPlan DataLoader::plan(const LoaderCursor& cursor, int64_t num_packs) {
  CACHALOT_CHECK(num_packs >= 1);
  const Status status = check_cursor(cursor);
  CACHALOT_CHECK_MSG(status.ok(), status.message());
  StepPlan step;
  step.next = cursor;
  while (static_cast<int64_t>(step.packs.size()) < num_packs) {
    const auto window = window_at(step.next);
    const auto count = static_cast<int64_t>(window->packs.size());
    if (step.next.pack >= count) {
      step.next.pack = 0;
      ++step.next.window;
      step.next.sources = window->end;
      continue;
    }
    step.packs.push_back(window->packs[static_cast<size_t>(step.next.pack++)]);
  }
  ++step.next.step;
  return step;
}

LoaderCursor DataLoader::skip_window(const LoaderCursor& cursor) {
  const Status status = check_cursor(cursor);
  CACHALOT_CHECK_MSG(status.ok(), status.message());
  LoaderCursor next = cursor;
  next.sources = window_at(cursor)->end;
  next.pack = 0;
  ++next.window;
  return next;
}

Result<LoaderCursor> DataLoader::adopt_cursor(const LoaderCursor& cursor) const {
  if (cursor.pack != 0) {
    return invalid_argument(fmt::format(
        "data cursor: expected the start of a window to begin a stage from, found pack {}",
        cursor.pack));
  }
  LoaderCursor adopted = cursor;
  adopted.fingerprint = fingerprint_;
  for (SourceCursor& source : adopted.sources) source.tokens = 0;
  CACHALOT_RETURN_IF_ERROR(check_cursor(adopted));
  return adopted;
}

Result<Pack> DataLoader::read(const std::vector<Sample>& samples) const {
  Pack pack;
  pack.samples = samples;
  for (const Sample& sample : samples) {
    const TokenSource& shard =
        mix_[static_cast<size_t>(sample.dataset)].dataset.shard(sample.shard);
    CACHALOT_CHECK(sample.pack_begin == static_cast<int64_t>(pack.tokens.size()));
    CACHALOT_RETURN_IF_ERROR(read_weights(shard, sample, pack));
    pack.tokens.resize(pack.tokens.size() + static_cast<size_t>(sample.length));
    const std::span<int32_t> out = std::span(pack.tokens).last(static_cast<size_t>(sample.length));
    if (!sample.fim) {
      CACHALOT_RETURN_IF_ERROR(shard.read(sample.document, sample.begin, out));
      continue;
    }
    const int64_t length = shard.document_length(sample.document);
    const int64_t body_begin = config_.fim_keep_first;
    const int64_t body_end = length - config_.fim_keep_last;
    // Only the runs that the piece touches are read: a long document's pieces together read it
    // once.
    int64_t place = 0;
    for (const FimRun& run :
         fim_runs(length, body_begin, body_end, *sample.fim, *config_.fim_tokens)) {
      const int64_t begin = std::max(place, sample.begin);
      const int64_t end = std::min(place + run.length, sample.begin + sample.length);
      if (begin < end) {
        const auto part = out.subspan(static_cast<size_t>(begin - sample.begin),
                                      static_cast<size_t>(end - begin));
        if (run.inserted >= 0) {
          part[0] = run.inserted;
        } else {
          CACHALOT_RETURN_IF_ERROR(shard.read(sample.document, run.begin + (begin - place), part));
        }
      }
      place += run.length;
    }
  }
  return pack;
}

Result<Batch> DataLoader::batch(const LoaderCursor& cursor, int64_t num_packs,
                                ThreadPool* threads) {
  StepPlan step = plan(cursor, num_packs);
  std::vector<std::optional<Result<Pack>>> results(step.packs.size());
  const auto read_pack = [&](int64_t i, int /*worker*/) {
    results[static_cast<size_t>(i)].emplace(read(step.packs[static_cast<size_t>(i)]));
  };
  if (threads != nullptr) {
    threads->run(static_cast<int64_t>(results.size()), read_pack);
  } else {
    for (size_t i = 0; i < results.size(); ++i) read_pack(static_cast<int64_t>(i), 0);
  }
  Batch batch;
  batch.next = std::move(step.next);
  for (auto& result : results) {
    CACHALOT_ASSIGN_OR_RETURN(Pack pack, *std::move(result));
    batch.packs.push_back(std::move(pack));
  }
  return batch;
}

}  // namespace cachalot::data
