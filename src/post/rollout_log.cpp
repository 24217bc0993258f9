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
      prompt_experts_(static_cast<size_t>(head.num_groups)) {}

Result<RolloutLog> RolloutLog::open(const std::string& path, const RolloutLogHead& head) {
  CACHALOT_CHECK(head.num_groups > 0 && head.group_size > 0);
  RolloutLog log(head);
  CACHALOT_ASSIGN_OR_RETURN(
      FrameLog file, FrameLog::open(path, [&](std::span<const std::byte> payload, int64_t offset) {
        return log.read(payload, fmt::format("{}: byte {}", path, offset));
      }));
  log.log_.emplace(std::move(file));
  for (const RolloutAnswer& answer : log.answers_) log.recovered_tokens_ += answer.num_sampled();
  if (log.has_head_) return log;
  begin(log.frame_, Kind::head);
  put_head(log.frame_, head);
  CACHALOT_RETURN_IF_ERROR(log.append());
  return log;
}

Status RolloutLog::append() {
  const Status written = log_->append(frame_);
  if (!written.ok()) return written;
  const Status read_back = read(frame_, log_->path());
  CACHALOT_CHECK_MSG(read_back.ok(), read_back.message());
  return {};
}

// The only way in which answers change.
Status RolloutLog::read(std::span<const std::byte> payload, const std::string& origin) {
  Fields fields(payload);
  const auto impossible = [&](std::string_view what) {
    return data_loss(fmt::format("{}: expected a frame of rollouts, found {}", origin, what));
  };
  const auto kind = fields.get<Kind>();
  if (kind == Kind::head) {
    std::vector<std::byte> expected;
    begin(expected, Kind::head);
    put_head(expected, head_);
    if (!std::equal(payload.begin(), payload.end(), expected.begin(), expected.end())) {
      return invalid_argument(fmt::format(
          "{}: expected rollouts of step {} with weights {} and plan {:016x}, found others; the "
          "configuration or the tasks have changed",
          origin, head_.step, head_.weights_version, head_.plan_hash));
    }
    has_head_ = true;
    return {};
  }
  if (!has_head_) return impossible("none that says of what");
  const auto is_experts = [&](const std::vector<uint16_t>& experts) {
    return (head_.choices_per_row == 0
                ? experts.empty()
                : static_cast<int64_t>(experts.size()) % head_.choices_per_row == 0) &&
           std::ranges::all_of(experts, [&](uint16_t id) { return id < head_.num_experts; });
  };
  if (kind == Kind::prompt) {
    const int64_t group = fields.index(head_.num_groups);
    std::vector<uint16_t> experts = fields.all<uint16_t>();
    if (!fields.are_whole() || !is_experts(experts)) return impossible("a damaged prompt");
    prompt_experts_[group] = std::move(experts);
    return {};
  }
  const int64_t number = fields.index(static_cast<int64_t>(answers_.size()));
  if (!fields.is_whole()) return impossible("no answer of the plan");
  RolloutAnswer& answer = answers_[number];
  if (kind == Kind::reward) {
    Reward reward;
    reward.value = fields.get<double>();
    reward.correct = fields.get<uint8_t>() != 0;
    const std::vector<char> why = fields.all<char>();
    reward.why.assign(why.begin(), why.end());
    if (!fields.are_whole() || !std::isfinite(reward.value)) return impossible("a damaged reward");
    answer.reward = std::move(reward);
    return {};
  }
  if (answer.end != AnswerEnd::open) return impossible("more of an answer that has ended");
  if (kind == Kind::end) {
    const auto end = fields.get<AnswerEnd>();
    if (!fields.are_whole() || (end != AnswerEnd::stop && end != AnswerEnd::length))
      return impossible("a damaged end");
    answer.end = end;
    return {};
  }
  if (kind != Kind::token && kind != Kind::given) return impossible("another kind");
  const auto place = static_cast<size_t>(fields.get<uint32_t>());
  if (place != answer.ids.size()) {
    return impossible(
        fmt::format("token {} of answer {} after {}", place, number, answer.ids.size()));
  }
  const auto is_id = [&](int32_t id) { return id >= 0 && id < head_.vocab_size; };
  if (kind == Kind::given) {
    const std::vector<int32_t> ids = fields.all<int32_t>();
    if (!fields.are_whole() || !std::ranges::all_of(ids, is_id))
      return impossible("damaged tokens");
    for (const int32_t id : ids) {
      answer.ids.push_back(id);
      answer.is_sampled.push_back(false);
      answer.logprobs.push_back(0);
      answer.allowed.emplace_back();
    }
    return {};
  }
  RolloutToken token;
  token.id = fields.get<int32_t>();
  token.logprob = fields.get<double>();
  token.allowed = fields.ascending(head_.vocab_size);
  token.experts = fields.all<uint16_t>();
  const bool may_come =
      token.allowed.empty() || std::ranges::binary_search(token.allowed, token.id);
  if (!fields.are_whole() || !is_id(token.id) || !(token.logprob <= 0) || !may_come ||
      !is_experts(token.experts))
    return impossible("a damaged token");
  answer.ids.push_back(token.id);
  answer.is_sampled.push_back(true);
  answer.logprobs.push_back(token.logprob);
  answer.allowed.push_back(std::move(token.allowed));
  answer.experts.insert(answer.experts.end(), token.experts.begin(), token.experts.end());
  return {};
}

Status RolloutLog::add_prompt(int64_t group, std::vector<uint16_t> experts) {
  begin(frame_, Kind::prompt);
  put(frame_, static_cast<int32_t>(group));
  put_all(frame_, std::span<const uint16_t>(experts));
  return append();
}

Status RolloutLog::add_token(int64_t answer, RolloutToken token) {
  begin(frame_, Kind::token);
  put(frame_, static_cast<int32_t>(answer));
  put(frame_, static_cast<uint32_t>(answers_.at(answer).ids.size()));
  put(frame_, token.id);
  put(frame_, token.logprob);
  put_ascending(frame_, token.allowed);
  put_all(frame_, std::span<const uint16_t>(token.experts));
  return append();
}

Status RolloutLog::add_given(int64_t answer, std::span<const int32_t> ids) {
  begin(frame_, Kind::given);
  put(frame_, static_cast<int32_t>(answer));
  put(frame_, static_cast<uint32_t>(answers_.at(answer).ids.size()));
  put_all(frame_, ids);
  return append();
}

Status RolloutLog::finish(int64_t answer, AnswerEnd end) {
  begin(frame_, Kind::end);
  put(frame_, static_cast<int32_t>(answer));
  put(frame_, end);
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
