#include "data/conversation_corpus.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/file.h"
#include "data/corpus_list.h"
#include "data/line_reader.h"
#include "data/shard_series.h"

namespace cachalot::data {
namespace {

constexpr size_t kMaxRowBytes = size_t{1} << 28;
constexpr int64_t kBatchBytes = int64_t{8} << 20;
constexpr int64_t kMaxShardTokens = int64_t{1} << 24;
constexpr size_t kShownBadRows = 5;

Status check_options(const ConversationCorpusOptions& options) {
  const auto fail = [](std::string_view field, std::string_view expected, auto found) {
    return invalid_argument(
        fmt::format("conversations: {}: expected {}, found {}", field, expected, found));
  };
  if (options.max_tokens < 2) return fail("max_tokens", "2 or more", options.max_tokens);
  if (!(options.hold_out >= 0 && options.hold_out <= 0.5))
    return fail("hold_out", "0 to 0.5", options.hold_out);
  if (!(options.most_bad_rows >= 0 && options.most_bad_rows <= 1))
    return fail("most_bad_rows", "0 to 1", options.most_bad_rows);
  return {};
}

class Builder {
 public:
  Builder(const text::Tokenizer& tokenizer, std::string prefix,
          const ConversationCorpusOptions& options, ThreadPool& threads)
      : tokenizer_(tokenizer),
        prefix_(std::move(prefix)),
        options_(options),
        threads_(threads),
        fingerprint_(tokenizer_fingerprint(tokenizer)),
        training_(prefix_, shard_options()),
        held_out_(held_out_prefix(), shard_options()) {}

  Result<ConversationCorpus> run(std::span<const std::string> files) {
    for (const std::string& file : files) CACHALOT_RETURN_IF_ERROR(read(file));
    CACHALOT_RETURN_IF_ERROR(flush());
    CACHALOT_RETURN_IF_ERROR(judge(files));
    if (!bad_rows_.empty()) {
      CACHALOT_RETURN_IF_ERROR(write_file_atomically(
          prefix_ + "-bad-rows.txt", fmt::format("{}\n", fmt::join(bad_rows_, "\n"))));
    }
    if (options_.hold_out > 0) {
      CACHALOT_RETURN_IF_ERROR(finish(held_out_, out_.held_out, held_out_prefix()));
    }
    CACHALOT_RETURN_IF_ERROR(finish(training_, out_.training, prefix_));
    out_.num_bad_rows = static_cast<int64_t>(bad_rows_.size());
    bad_rows_.resize(std::min(bad_rows_.size(), kShownBadRows));
    out_.bad_rows = std::move(bad_rows_);
    return std::move(out_);
  }

 private:
  struct Line {
    std::string text;
    std::string place;  // file and number
  };
  using Samples = std::vector<ConversationSample>;

  ShardOptions shard_options() const {
    return {.vocab_size = tokenizer_.vocab_size(),
            .tokenizer_fingerprint = fingerprint_,
            .max_tokens = kMaxShardTokens,
            .with_weights = true};
  }
  std::string held_out_prefix() const { return prefix_ + "-heldout"; }

  Status read(const std::string& file) {
    CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<ByteStream> stream, ByteStream::open(file));
    LineReader lines(std::move(stream), file, kMaxRowBytes);
    Line line;
    while (true) {
      CACHALOT_ASSIGN_OR_RETURN(const bool has_line, lines.next(&line.text));
      if (!has_line) return {};
      if (line.text.find_first_not_of(" \t\r") == std::string::npos) continue;
      line.place = fmt::format("{}:{}", file, lines.line());
      batch_bytes_ += static_cast<int64_t>(line.text.size());
      batch_.push_back(std::move(line));
      if (batch_bytes_ >= kBatchBytes) CACHALOT_RETURN_IF_ERROR(flush());
    }
  }

  Result<Samples> samples_of(const Line& line) const {
    CACHALOT_ASSIGN_OR_RETURN(const json::value row, parse_json(line.text, "row"));
    CACHALOT_ASSIGN_OR_RETURN(Samples samples,
                              conversation_samples(tokenizer_, row, options_.conversations));
    for (const ConversationSample& sample : samples) {
      const auto length = static_cast<int64_t>(sample.ids.size());
      if (length <= options_.max_tokens) continue;
      return invalid_argument(
          fmt::format("expected at most {} tokens, found {}", options_.max_tokens, length));
    }
    return samples;
  }

  Status flush() {
    std::vector<std::optional<Result<Samples>>> rows(batch_.size());
    threads_.run(static_cast<int64_t>(batch_.size()), [&](int64_t i, int /*worker*/) {
      rows[static_cast<size_t>(i)].emplace(samples_of(batch_[static_cast<size_t>(i)]));
    });
    for (size_t i = 0; i < rows.size(); ++i) {
      ++out_.num_rows;
      const Result<Samples>& row = *rows[i];
      if (row) {
        CACHALOT_RETURN_IF_ERROR(add(*row));
        continue;
      }
      bad_rows_.push_back(fmt::format("{}: {}", batch_[i].place, row.error().message()));
      if (options_.most_bad_rows == 0) return invalid_argument(bad_rows_.front());
    }
    batch_.clear();
    batch_bytes_ = 0;
    return {};
  }

  bool is_held_out(int64_t row) const {
    if (options_.hold_out == 0) return false;
    const auto block = static_cast<int64_t>(std::llround(1 / options_.hold_out));
    const auto number = static_cast<uint64_t>(row / block);
    return row % block == static_cast<int64_t>(XXH3_64bits(&number, sizeof(number)) %
                                               static_cast<uint64_t>(block));
  }

  Status add(const Samples& samples) {
    const bool held_out = is_held_out(num_good_++);
    out_.num_held_out_rows += held_out ? 1 : 0;
    CorpusSummary& summary = held_out ? out_.held_out : out_.training;
    for (const ConversationSample& sample : samples) {
      const auto length = static_cast<int64_t>(sample.ids.size());
      CACHALOT_RETURN_IF_ERROR((held_out ? held_out_ : training_).add(sample.ids, sample.weights));
      ++summary.num_documents;
      summary.num_tokens += length;
      out_.num_targets += std::ranges::count_if(sample.weights, [](float w) { return w > 0; });
      out_.num_thinking_samples += sample.thinking ? 1 : 0;
      out_.longest_sample = std::max(out_.longest_sample, length);
    }
    return {};
  }

  // Whether the rows are what they were taken for.
  Status judge(std::span<const std::string> files) const {
    const auto bad = static_cast<double>(bad_rows_.size());
    if (bad > options_.most_bad_rows * static_cast<double>(out_.num_rows)) {
      return invalid_argument(
          fmt::format("{}: expected at most {:.3g} % bad rows, found {} of {}; the first: {}",
                      fmt::join(files, ", "), 100 * options_.most_bad_rows, bad_rows_.size(),
                      out_.num_rows, bad_rows_.front()));
    }
    if (out_.training.num_documents > 0) return {};
    return invalid_argument(
        fmt::format("{}: expected at least one conversation to learn from, found none in {} rows",
                    fmt::join(files, ", "), out_.num_rows));
  }

  Status finish(ShardSeries& series, CorpusSummary& summary, const std::string& prefix) const {
    CACHALOT_ASSIGN_OR_RETURN(summary.shards, series.finish());
    return write_file_atomically(prefix + ".json", corpus_list_json(summary, fingerprint_));
  }

  const text::Tokenizer& tokenizer_;
  const std::string prefix_;
  const ConversationCorpusOptions& options_;
  ThreadPool& threads_;
  const uint64_t fingerprint_;
  ShardSeries training_, held_out_;
  std::vector<Line> batch_;
  int64_t batch_bytes_ = 0;
  int64_t num_good_ = 0;
  std::vector<std::string> bad_rows_;
  ConversationCorpus out_;
};

}  // namespace

Result<ConversationCorpus> build_conversation_corpus(const text::Tokenizer& tokenizer,
                                                     std::span<const std::string> files,
                                                     const std::string& prefix,
                                                     const ConversationCorpusOptions& options,
                                                     ThreadPool& threads) {
  CACHALOT_RETURN_IF_ERROR(check_options(options));
  CACHALOT_RETURN_IF_ERROR(check_conversation_tokens(tokenizer));
  CACHALOT_RETURN_IF_ERROR(
      create_directories(std::filesystem::absolute(prefix).parent_path().string()));
  return Builder(tokenizer, prefix, options, threads).run(files);
}

}  // namespace cachalot::data
