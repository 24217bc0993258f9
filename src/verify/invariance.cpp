#include "verify/invariance.h"

#include <fmt/core.h>

#include <cstring>

#include "base/rng.h"
#include "device/floats.h"

namespace cachalot::verify {
namespace {

constexpr int64_t kBriefTokens = 300;

std::vector<int32_t> random_ids(int64_t count, int64_t vocab_size, uint64_t index) {
  RngStream rng(20260424, RngPurpose::data, index);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids)
    id = static_cast<int32_t>(rng.next_unit() * static_cast<double>(vocab_size));
  return ids;
}

// First row whose bits differ, or -1.
int64_t first_difference(const float* a, const float* b, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    if (std::memcmp(a + row * columns, b + row * columns,
                    static_cast<size_t>(columns) * sizeof(float)) != 0)
      return row;
  }
  return -1;
}

void check_equal(GoldenReport& report, const std::string& name, int64_t difference, int64_t rows) {
  report.check(difference < 0, name,
               difference < 0 ? fmt::format("{} positions, equal bits", rows)
                              : fmt::format("first differs at position {}", difference));
}

// Pieces of `size` after a first one of `first`, up to `total`.
std::vector<int64_t> cutting(int64_t total, int64_t first, int64_t size) {
  std::vector<int64_t> pieces;
  for (int64_t done = 0; done < total; done += pieces.back()) {
    pieces.push_back(std::min(total - done, pieces.empty() && first > 0 ? first : size));
  }
  return pieces;
}

// Everything is compared with this pass over the ids.
struct Whole {
  std::vector<int32_t> ids;
  PassRecord pass;
  int64_t width;  // of a row of streams
  int64_t vocab_size;

  int64_t rows() const { return pass.rows; }
  // First row from `first` on whose streams (or logits, where the other pass has them) differ, as a
  // position, or -1.
  int64_t difference(const PassRecord& other, int64_t first) const {
    int64_t row = first_difference(pass.streams.data() + first * width, other.streams.data(),
                                   other.rows, width);
    if (row < 0 && !other.logits.empty()) {
      row = first_difference(pass.logits.data() + first * vocab_size, other.logits.data(),
                             other.rows, vocab_size);
    }
    return row < 0 ? -1 : first + row;
  }
};

// Token by token; at each cut point the rest of a window goes through a fork as one chunk, so that
// every residue mod 4 and mod 128 is a border both ways.
Status check_decode(GoldenRunner& runner, const Whole& whole, GoldenReport& report) {
  constexpr int64_t kFirstCut = 384, kLastCut = 384 + 128, kChunk = 131;
  CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache sequence, runner.new_sequence());
  int64_t decode_difference = -1, chunk_difference = -1;
  for (int64_t t = 0; t < whole.rows(); ++t) {
    const std::span rest = std::span(whole.ids).subspan(static_cast<size_t>(t));
    if (t >= kFirstCut && t < kLastCut && chunk_difference < 0) {
      CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache fork, sequence.fork());
      CACHALOT_ASSIGN_OR_RETURN(const PassRecord chunk,
                                runner.run(fork, rest.first(kChunk), {}, false));
      chunk_difference = whole.difference(chunk, t);
    }
    CACHALOT_ASSIGN_OR_RETURN(const PassRecord step, runner.run(sequence, rest.first(1), {}, true));
    if (decode_difference < 0) decode_difference = whole.difference(step, t);
  }
  check_equal(report, "token-by-token decode", decode_difference, whole.rows());
  check_equal(report, "chunks starting at every residue mod 4 and 128", chunk_difference,
              (kLastCut - kFirstCut) * kChunk);
  return {};
}

Status check_cuttings(GoldenRunner& runner, const Whole& whole, GoldenReport& report) {
  for (const auto& [first, size] :
       {std::pair<int64_t, int64_t>{0, 4}, {1, 5}, {3, 64}, {127, 128}, {129, 255}, {513, 512}}) {
    CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache sequence, runner.new_sequence());
    CACHALOT_ASSIGN_OR_RETURN(
        const PassRecord pass,
        runner.run(sequence, whole.ids, cutting(whole.rows(), first, size), true));
    check_equal(report, fmt::format("pass in pieces of {} after {}", size, first),
                whole.difference(pass, 0), whole.rows());
  }
  return {};
}

// Two sequences in one batch: the second must not see the first.
Status check_neighbour(GoldenRunner& runner, const Whole& whole, GoldenReport& report) {
  constexpr int64_t kRows = 290, kOther = 77;
  CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache neighbour, runner.new_sequence());
  CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache sequence, runner.new_sequence());
  const std::vector<int32_t> other = random_ids(kOther, whole.vocab_size, 1);
  const engine::StepInput inputs[] = {{&neighbour, other},
                                      {&sequence, std::span(whole.ids).first(kRows)}};
  device::Floats streams(runner.runner().context());
  streams.make_room((kRows + kOther) * whole.width);
  CACHALOT_RETURN_IF_ERROR(runner.runner().forward(inputs, streams.data()));
  check_equal(
      report, "beside another sequence in one batch",
      first_difference(whole.pass.streams.data(),
                       streams.on_host((kRows + kOther) * whole.width) + kOther * whole.width,
                       kRows, whole.width),
      kRows);
  return {};
}

}  // namespace

Status verify_invariance(GoldenRunner& runner, Invariance scope, GoldenReport& report) {
  if (scope == Invariance::none) return {};
  const model::Transformer& model = runner.runner().model();
  const int64_t vocab_size = model.config().vocab_size;
  const int64_t num_tokens = scope == Invariance::full ? kInvarianceTokens : kBriefTokens;
  Whole whole{random_ids(num_tokens, vocab_size, 0),
              {},
              model.num_streams() * model.config().hidden_size,
              vocab_size};
  CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache sequence, runner.new_sequence());
  CACHALOT_ASSIGN_OR_RETURN(whole.pass, runner.run(sequence, whole.ids, {}, true));
  sequence.clear();
  if (scope == Invariance::full) CACHALOT_RETURN_IF_ERROR(check_decode(runner, whole, report));
  CACHALOT_RETURN_IF_ERROR(check_cuttings(runner, whole, report));
  return check_neighbour(runner, whole, report);
}

}  // namespace cachalot::verify
