#include "post/rollout_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace cachalot::post {
namespace {

constexpr uint32_t kVersion = 1;
enum class Kind : uint8_t { head = 1, prompt, token, given, end, reward };

void put(std::vector<std::byte>& out, const auto& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}
template <typename T>
void put_all(std::vector<std::byte>& out, std::span<const T> values) {
  put(out, static_cast<uint32_t>(values.size()));
  const auto bytes = std::as_bytes(values);
  out.insert(out.end(), bytes.begin(), bytes.end());
}
void put_text(std::vector<std::byte>& out, std::string_view text) {
  put_all(out, std::span<const char>(text));
}

// Ascending ids as the steps between them, seven bits a byte, the lowest first.
void put_ascending(std::vector<std::byte>& out, const std::vector<int32_t>& ids) {
  put(out, static_cast<uint32_t>(ids.size()));
  int64_t before = -1;
  for (const int32_t id : ids) {
    auto step = static_cast<uint32_t>(id - before - 1);
    for (; step >= 0x80; step >>= 7) out.push_back(static_cast<std::byte>(step | 0x80));
    out.push_back(static_cast<std::byte>(step));
    before = id;
  }
}

void begin(std::vector<std::byte>& out, Kind kind) { out.assign(1, static_cast<std::byte>(kind)); }

void put_head(std::vector<std::byte>& out, const RolloutLogHead& head) {
  put(out, kVersion);
  for (const int64_t value :
       {head.step, head.weights_version, static_cast<int64_t>(head.plan_hash), head.num_groups,
        head.group_size, head.vocab_size, head.choices_per_row, head.num_experts})
    put(out, value);
}

void put_prompt(std::vector<std::byte>& out, int64_t group, const std::vector<uint16_t>& experts) {
  begin(out, Kind::prompt);
  put(out, static_cast<int32_t>(group));
  put_all(out, std::span<const uint16_t>(experts));
}

void put_token(std::vector<std::byte>& out, int64_t answer, size_t place,
               const RolloutToken& token) {
  begin(out, Kind::token);
  put(out, static_cast<int32_t>(answer));
  put(out, static_cast<uint32_t>(place));
  put(out, token.id);
  put(out, token.logprob);
  put_ascending(out, token.allowed);
  put_all(out, std::span<const uint16_t>(token.experts));
}

void put_given(std::vector<std::byte>& out, int64_t answer, size_t place,
               std::span<const int32_t> ids) {
  begin(out, Kind::given);
  put(out, static_cast<int32_t>(answer));
  put(out, static_cast<uint32_t>(place));
  put_all(out, ids);
}

void put_end(std::vector<std::byte>& out, int64_t answer, AnswerEnd end) {
  begin(out, Kind::end);
  put(out, static_cast<int32_t>(answer));
  put(out, end);
}

// Reads any bytes; what is missing or wrong is remembered, and zeros come from there on.
class Fields {
 public:
  explicit Fields(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T get() {
    T value{};
    if (bytes_.size() < sizeof(T)) {
      is_whole_ = false;
      bytes_ = {};
      return value;
    }
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return value;
  }
  // In [0, limit).
  int64_t index(int64_t limit) {
    const auto value = static_cast<int64_t>(get<int32_t>());
    is_whole_ = is_whole_ && value >= 0 && value < limit;
    return is_whole_ ? value : 0;
  }
  template <typename T>
  std::vector<T> all() {
    const auto count = get<uint32_t>();
    std::vector<T> values;
    if (count > bytes_.size() / sizeof(T)) {
      is_whole_ = false;
      return values;
    }
    values.resize(count);
    if (count > 0) std::memcpy(values.data(), bytes_.data(), count * sizeof(T));
    bytes_ = bytes_.subspan(count * sizeof(T));
    return values;
  }
  std::vector<int32_t> ascending(int64_t limit) {
    const auto count = get<uint32_t>();
    std::vector<int32_t> ids;
    if (count > bytes_.size()) is_whole_ = false;  // a byte each at least
    int64_t before = -1;
    for (uint32_t i = 0; is_whole_ && i < count; ++i) {
      uint64_t step = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = get<uint8_t>();
        step |= static_cast<uint64_t>(byte & 0x7f) << shift;
        if (byte < 0x80) break;
        if (shift == 28) is_whole_ = false;
        if (!is_whole_) break;
      }
      before += static_cast<int64_t>(step) + 1;
      is_whole_ = is_whole_ && before < limit;
      if (is_whole_) ids.push_back(static_cast<int32_t>(before));
    }
    return ids;
  }
  bool are_whole() const { return is_whole_ && bytes_.empty(); }
  bool is_whole() const { return is_whole_; }

 private:
  std::span<const std::byte> bytes_;
  bool is_whole_ = true;
};

}  // namespace

std::string_view answer_end_name(AnswerEnd end) {
  switch (end) {
    case AnswerEnd::open: return "open";
    case AnswerEnd::stop: return "stop";
    case AnswerEnd::length: return "length";
  }
  return "unknown";
}

int64_t RolloutAnswer::num_sampled() const {
  return std::count(is_sampled.begin(), is_sampled.end(), true);
}

RolloutLog::RolloutLog(const RolloutLogHead& head)
    : head_(head),
      answers_(static_cast<size_t>(head.num_groups * head.group_size)),
      prompt_frames_(static_cast<size_t>(head.num_groups), -1),
      answer_frames_(static_cast<size_t>(head.num_groups * head.group_size)) {
  CACHALOT_CHECK(head.num_groups > 0 && head.group_size > 0);
}

// number: of the group of a prompt, else of the answer.
struct RolloutLog::Frame {
  Kind kind = Kind::head;
  int64_t number = 0;
  RolloutToken token;  // of a prompt, too: its experts
  std::vector<int32_t> given;
  AnswerEnd end = AnswerEnd::open;
  Reward reward;
};

Result<RolloutLog> RolloutLog::open(const std::string& path, const RolloutLogHead& head) {
  RolloutLog log(head);
  CACHALOT_ASSIGN_OR_RETURN(
      FrameLog file,
      FrameLog::open(path, [&](std::span<const std::byte> payload, int64_t offset) -> Status {
        CACHALOT_ASSIGN_OR_RETURN(Frame frame,
                                  log.parse(payload, fmt::format("{}: byte {}", path, offset)));
        log.apply(std::move(frame), offset);
        return {};
      }));
  log.log_.emplace(std::move(file));
  for (const RolloutAnswer& answer : log.answers_) log.recovered_tokens_ += answer.num_sampled();
  if (log.has_head_) return log;
  begin(log.frame_, Kind::head);
  put_head(log.frame_, head);
  CACHALOT_RETURN_IF_ERROR(log.append());
  return log;
}

RolloutLog RolloutLog::mirror(const RolloutLogHead& head, Send send) {
  RolloutLog log(head);
  log.has_head_ = true;
  log.send_ = std::move(send);
  return log;
}

Status RolloutLog::append() {
  const int64_t offset = log_ ? log_->next_offset() : 0;
  CACHALOT_RETURN_IF_ERROR(log_ ? log_->append(frame_) : send_(frame_));
  Result<Frame> frame = parse(frame_, origin());
  CACHALOT_CHECK_MSG(frame.has_value(), frame.error().message());
  apply(*std::move(frame), offset);
  return {};
}

Status RolloutLog::add(std::span<const std::byte> payload) {
  CACHALOT_ASSIGN_OR_RETURN(Frame frame, parse(payload, origin()));
  const int64_t offset = log_ ? log_->next_offset() : 0;
  if (log_) CACHALOT_RETURN_IF_ERROR(log_->append(payload));
  apply(std::move(frame), offset);
  return {};
}

Result<RolloutLog::Place> RolloutLog::place_of(std::span<const std::byte> payload) const {
  Fields fields(payload);
  const auto kind = fields.get<Kind>();
  const bool is_prompt = kind == Kind::prompt;
  const int64_t number =
      fields.index(is_prompt ? head_.num_groups : static_cast<int64_t>(answers_.size()));
  const auto num_experts = is_prompt ? static_cast<int64_t>(fields.get<uint32_t>()) : 0;
  const bool is_answers = kind == Kind::token || kind == Kind::given || kind == Kind::end;
  if (!fields.is_whole() || !(is_prompt || is_answers)) {
    return data_loss(fmt::format(
        "{}: expected a prompt's, a token's, given tokens' or an end's frame, found another",
        origin()));
  }
  if (!is_prompt)
    return Place{.group = number / head_.group_size, .is_sampled_token = kind == Kind::token};
  Place place{.group = number};
  if (head_.choices_per_row > 0) place.prompt_rows = num_experts / head_.choices_per_row;
  return place;
}

Result<std::vector<std::vector<std::byte>>> RolloutLog::frames_of(int64_t group) const {
  CACHALOT_CHECK(log_.has_value());
  std::vector<std::vector<std::byte>> frames;
  const auto add = [&](int64_t offset) -> Status {
    CACHALOT_ASSIGN_OR_RETURN(frames.emplace_back(), log_->read(offset));
    return {};
  };
  if (has_prompt(group)) CACHALOT_RETURN_IF_ERROR(add(prompt_frames_[group]));
  for (int64_t i = group * head_.group_size; i < (group + 1) * head_.group_size; ++i) {
    for (const int64_t offset : answer_frames_[i]) CACHALOT_RETURN_IF_ERROR(add(offset));
  }
  return frames;
}

Result<HeavyFields> RolloutLog::heavy(int64_t answer) const {
  CACHALOT_CHECK(log_.has_value());
  HeavyFields heavy;
  // They were parsed when they came, and their checksums hold.
  if (const int64_t group = answer / head_.group_size; has_prompt(group)) {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::byte> payload,
                              log_->read(prompt_frames_[group]));
    Fields fields(payload);
    fields.get<Kind>();
    fields.get<int32_t>();  // the group
    heavy.prompt_experts = fields.all<uint16_t>();
  }
  heavy.experts.reserve(static_cast<size_t>(answers_[answer].num_rows * head_.choices_per_row));
  heavy.allowed.reserve(answers_[answer].ids.size());
  for (const int64_t offset : answer_frames_[answer]) {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::byte> payload, log_->read(offset));
    Fields fields(payload);
    const auto kind = fields.get<Kind>();
    if (kind == Kind::end) continue;
    fields.get<int32_t>();   // the answer
    fields.get<uint32_t>();  // the place
    if (kind == Kind::given) {
      heavy.allowed.resize(heavy.allowed.size() + fields.all<int32_t>().size());
      continue;
    }
    fields.get<int32_t>();  // the id
    fields.get<double>();   // its log-probability
    heavy.allowed.push_back(fields.ascending(head_.vocab_size));
    const std::vector<uint16_t> experts = fields.all<uint16_t>();
    heavy.experts.insert(heavy.experts.end(), experts.begin(), experts.end());
  }
  return heavy;
}

Result<RolloutLog::Frame> RolloutLog::parse(std::span<const std::byte> payload,
                                            const std::string& origin) const {
  Fields fields(payload);
  const auto impossible = [&](std::string_view what) {
    return data_loss(fmt::format("{}: expected a frame of rollouts, found {}", origin, what));
  };
  Frame frame;
  frame.kind = fields.get<Kind>();
  if (frame.kind == Kind::head) {
    std::vector<std::byte> expected;
    begin(expected, Kind::head);
    put_head(expected, head_);
    if (std::equal(payload.begin(), payload.end(), expected.begin(), expected.end())) return frame;
    return invalid_argument(fmt::format(
        "{}: expected rollouts of step {} with weights {} and plan {:016x}, found others; the "
        "configuration or the tasks have changed",
        origin, head_.step, head_.weights_version, head_.plan_hash));
  }
  if (!has_head_) return impossible("none that says of what");
  const auto is_experts = [&](const std::vector<uint16_t>& experts) {
    return std::ranges::all_of(experts, [&](uint16_t id) { return id < head_.num_experts; });
  };
  if (frame.kind == Kind::prompt) {
    frame.number = fields.index(head_.num_groups);
    frame.token.experts = fields.all<uint16_t>();
    const auto count = static_cast<int64_t>(frame.token.experts.size());
    const bool are_rows =
        head_.choices_per_row == 0 ? count == 0 : count % head_.choices_per_row == 0;
    if (!fields.are_whole() || !are_rows || !is_experts(frame.token.experts))
      return impossible("a damaged prompt");
    return frame;
  }
  frame.number = fields.index(static_cast<int64_t>(answers_.size()));
  if (!fields.is_whole()) return impossible("no answer of the plan");
  const RolloutAnswer& answer = answers_[frame.number];
  if (frame.kind == Kind::reward) {
    frame.reward.value = fields.get<double>();
    frame.reward.correct = fields.get<uint8_t>() != 0;
    const std::vector<char> why = fields.all<char>();
    frame.reward.why.assign(why.begin(), why.end());
    if (!fields.are_whole() || !std::isfinite(frame.reward.value))
      return impossible("a damaged reward");
    return frame;
  }
  if (answer.end != AnswerEnd::open) return impossible("more of an answer that has ended");
  if (frame.kind == Kind::end) {
    frame.end = fields.get<AnswerEnd>();
    if (!fields.are_whole() || answer.ids.empty() ||
        (frame.end != AnswerEnd::stop && frame.end != AnswerEnd::length))
      return impossible("a damaged end");
    return frame;
  }
  if (frame.kind != Kind::token && frame.kind != Kind::given) return impossible("another kind");
  const auto place = static_cast<size_t>(fields.get<uint32_t>());
  if (place != answer.ids.size()) {
    return impossible(
        fmt::format("token {} of answer {} after {}", place, frame.number, answer.ids.size()));
  }
  const auto is_id = [&](int32_t id) { return id >= 0 && id < head_.vocab_size; };
  if (frame.kind == Kind::given) {
    frame.given = fields.all<int32_t>();
    if (!fields.are_whole() || !std::ranges::all_of(frame.given, is_id))
      return impossible("damaged tokens");
    return frame;
  }
  RolloutToken& token = frame.token;
  token.id = fields.get<int32_t>();
  token.logprob = fields.get<double>();
  token.allowed = fields.ascending(head_.vocab_size);
  token.experts = fields.all<uint16_t>();
  const bool may_come =
      token.allowed.empty() || std::ranges::binary_search(token.allowed, token.id);
  const auto rows = static_cast<int64_t>(place) + 1;
  const bool are_rows = static_cast<int64_t>(token.experts.size()) ==
                        (rows - answer.num_rows) * head_.choices_per_row;
  if (!fields.are_whole() || !is_id(token.id) || !(token.logprob <= 0) || !may_come || !are_rows ||
      !is_experts(token.experts))
    return impossible("a damaged token");
  return frame;
}

void RolloutLog::apply(Frame frame, int64_t offset) {
  switch (frame.kind) {
    case Kind::head: has_head_ = true; return;
    case Kind::prompt: prompt_frames_[frame.number] = offset; return;
    case Kind::reward: answers_[frame.number].reward = std::move(frame.reward); return;
    case Kind::end: answers_[frame.number].end = frame.end; break;
    case Kind::token: break;
    case Kind::given: break;
  }
  answer_frames_[frame.number].push_back(offset);
  RolloutAnswer& answer = answers_[frame.number];
  for (const int32_t id : frame.given) {
    answer.ids.push_back(id);
    answer.is_sampled.push_back(false);
    answer.logprobs.push_back(0);
  }
  if (frame.kind != Kind::token) return;
  answer.ids.push_back(frame.token.id);
  answer.is_sampled.push_back(true);
  answer.logprobs.push_back(frame.token.logprob);
  answer.num_rows = static_cast<int64_t>(answer.ids.size());
}

Status RolloutLog::add_prompt(int64_t group, std::vector<uint16_t> experts) {
  put_prompt(frame_, group, experts);
  return append();
}

Status RolloutLog::add_token(int64_t answer, RolloutToken token) {
  put_token(frame_, answer, answers_.at(answer).ids.size(), token);
  return append();
}

Status RolloutLog::add_given(int64_t answer, std::span<const int32_t> ids) {
  put_given(frame_, answer, answers_.at(answer).ids.size(), ids);
  return append();
}

Status RolloutLog::finish(int64_t answer, AnswerEnd end) {
  put_end(frame_, answer, end);
  return append();
}

Status RolloutLog::add_reward(int64_t answer, const Reward& reward) {
  begin(frame_, Kind::reward);
  put(frame_, static_cast<int32_t>(answer));
  put(frame_, reward.value);
  put(frame_, static_cast<uint8_t>(reward.correct));
  put_text(frame_, reward.why);
  return append();
}

}  // namespace cachalot::post
