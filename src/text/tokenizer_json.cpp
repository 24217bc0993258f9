#include <fmt/format.h>

#include <array>
#include <optional>

#include "base/json.h"
#include "base/log.h"
#include "text/byte_alphabet.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_spec.h"

namespace cachalot::text {
namespace {

constexpr size_t kMaxAddedTokenBytes = 1024;

// As shown in a message: short, on one line.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, 60)) {
    const auto b = static_cast<unsigned char>(c);
    out += b >= 0x20 && b != 0x7F ? std::string(1, c) : fmt::format("\\x{:02x}", b);
  }
  return out + (text.size() > 60 ? "\"..." : "\"");
}

std::string shown(const json::value& value) {
  switch (value.kind()) {
    case json::kind::string: return quoted(value.get_string());
    case json::kind::bool_: return value.get_bool() ? "true" : "false";
    case json::kind::int64: return fmt::format("{}", value.get_int64());
    case json::kind::uint64: return fmt::format("{}", value.get_uint64());
    case json::kind::double_: return fmt::format("{}", value.get_double());
    default: return std::string(json_kind_name(value));
  }
}

// One value of the file and the path that leads to it.
class Field {
 public:
  Field(const json::value* value, std::string_view origin, std::string path)
      : value_(value), origin_(origin), path_(std::move(path)) {}

  // null where the key is absent: Hugging Face reads both alike.
  Field operator[](std::string_view key) const {
    static const json::value kAbsent;
    const json::value* child = value_->get_object().if_contains(key);
    return {child != nullptr ? child : &kAbsent, origin_,
            path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key)};
  }
  Field at(size_t i) const {
    return {&value_->get_array()[i], origin_, fmt::format("{}[{}]", path_, i)};
  }

  const json::value& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }
  const json::object& object() const { return value_->get_object(); }
  const json::array& array() const { return value_->get_array(); }
  std::string_view string() const { return value_->get_string(); }

  Status expect_object() const { return value_->is_object() ? Status() : expected("an object"); }
  Status expect_array() const { return value_->is_array() ? Status() : expected("an array"); }
  Status expect_string() const { return value_->is_string() ? Status() : expected("a string"); }

  Status expected(std::string_view what) const { return expected_but(what, shown(*value_)); }
  Status expected_but(std::string_view what, std::string_view found) const {
    return invalid_argument(
        fmt::format("{}: {}: expected {}, found {}", origin_, path_, what, found));
  }
  Status not_supported(std::string_view what) const {
    return unsupported(
        fmt::format("{}: {}: expected {}, found {}", origin_, path_, what, shown(*value_)));
  }

 private:
  const json::value* value_;
  std::string_view origin_;
  std::string path_;
};

Status expect_type(const Field& field, std::string_view type) {
  CACHALOT_RETURN_IF_ERROR(field.expect_object());
  const Field found = field["type"];
  CACHALOT_RETURN_IF_ERROR(found.expect_string());
  return found.string() == type ? Status() : found.not_supported(quoted(type));
}

// A flag that must be off; absent means off.
Status expect_off(const Field& field) {
  if (field.is_null() || (field.value().is_bool() && !field.value().get_bool())) return {};
  return field.value().is_bool() ? field.not_supported("false") : field.expected("false");
}

Status expect_none(const Field& field) {
  return field.is_null() || (field.value().is_string() && field.string().empty())
             ? Status()
             : field.not_supported("null");
}

Result<int32_t> token_id(const Field& field) {
  const auto id = field.value().if_int64();
  if (id == nullptr || *id < 0 || *id > kMaxTokenId)
    return field.expected(fmt::format("an id from 0 to {}", kMaxTokenId));
  return static_cast<int32_t>(*id);
}

Status check_normalizer(const Field& field) {
  if (field.is_null()) return {};
  CACHALOT_RETURN_IF_ERROR(expect_type(field, "Sequence"));
  const Field steps = field["normalizers"];
  CACHALOT_RETURN_IF_ERROR(steps.expect_array());
  return steps.array().empty() ? Status() : expect_type(steps.at(0), "nothing (an empty Sequence)");
}

Status check_split(const Field& step, std::string_view pattern) {
  CACHALOT_RETURN_IF_ERROR(expect_type(step, "Split"));
  const Field regex_holder = step["pattern"];
  CACHALOT_RETURN_IF_ERROR(regex_holder.expect_object());
  const Field regex = regex_holder["Regex"];
  CACHALOT_RETURN_IF_ERROR(regex.expect_string());
  if (regex.string() != pattern)
    return regex.not_supported("the DeepSeek-V3 pattern " + quoted(pattern));
  const Field behavior = step["behavior"];
  CACHALOT_RETURN_IF_ERROR(behavior.expect_string());
  if (behavior.string() != "Isolated") return behavior.not_supported("\"Isolated\"");
  return expect_off(step["invert"]);
}

Status check_pre_tokenizer(const Field& field) {
  CACHALOT_RETURN_IF_ERROR(expect_type(field, "Sequence"));
  const Field steps = field["pretokenizers"];
  CACHALOT_RETURN_IF_ERROR(steps.expect_array());
  constexpr size_t kSplits = std::size(kSplitPatterns);
  for (size_t i = 0; i < std::min(kSplits, steps.array().size()); ++i) {
    CACHALOT_RETURN_IF_ERROR(check_split(steps.at(i), kSplitPatterns[i]));
  }
  if (steps.array().size() != kSplits + 1) {
    return unsupported(
        steps
            .expected_but(fmt::format("the {} DeepSeek-V3 splits and ByteLevel", kSplits),
                          fmt::format("{} steps", steps.array().size()))
            .message());
  }
  const Field bytes = steps.at(kSplits);
  CACHALOT_RETURN_IF_ERROR(expect_type(bytes, "ByteLevel"));
  CACHALOT_RETURN_IF_ERROR(expect_off(bytes["add_prefix_space"]));
  // Absent means true here, unlike everywhere else.
  if (bytes["use_regex"].is_null()) return bytes["use_regex"].not_supported("false");
  return expect_off(bytes["use_regex"]);
}

// Post-processing by ByteLevel changes offsets only; other kinds add tokens.
Status check_post_processor(const Field& field) {
  return field.is_null() ? Status() : expect_type(field, "ByteLevel");
}

Result<std::vector<AddedToken>> read_added_tokens(const Field& field, const Field& vocabulary) {
  std::vector<AddedToken> tokens;
  if (field.is_null()) return tokens;
  CACHALOT_RETURN_IF_ERROR(field.expect_array());
  for (size_t i = 0; i < field.array().size(); ++i) {
    const Field entry = field.at(i);
    CACHALOT_RETURN_IF_ERROR(entry.expect_object());
    AddedToken token;
    CACHALOT_ASSIGN_OR_RETURN(token.id, token_id(entry["id"]));
    const Field content = entry["content"];
    CACHALOT_RETURN_IF_ERROR(content.expect_string());
    token.content = content.string();
    if (token.content.empty() || token.content.size() > kMaxAddedTokenBytes) {
      return content.expected_but(fmt::format("1 to {} bytes", kMaxAddedTokenBytes),
                                  fmt::format("{}", token.content.size()));
    }
    if (const Field base = vocabulary[token.content]; !base.is_null() && base.value() != token.id) {
      return entry["id"].expected(
          fmt::format("{}, the id of this token in model.vocab", shown(base.value())));
    }
    for (const char* flag : {"single_word", "lstrip", "rstrip"})
      CACHALOT_RETURN_IF_ERROR(expect_off(entry[flag]));
    const Field special = entry["special"];
    if (!special.is_null() && !special.value().is_bool()) return special.expected("true or false");
    token.special = special.value().is_bool() && special.value().get_bool();
    tokens.push_back(std::move(token));
  }
  return tokens;
}

Result<std::vector<VocabularyEntry>> read_vocabulary(const Field& field) {
  CACHALOT_RETURN_IF_ERROR(field.expect_object());
  const ByteAlphabet alphabet;
  std::vector<VocabularyEntry> entries;
  entries.reserve(field.object().size());
  for (const auto& [key, value] : field.object()) {
    const auto id = value.if_int64();
    if (id == nullptr || *id < 0 || *id > kMaxTokenId) return token_id(field[key]).error();
    if (key.empty()) return field.expected_but("tokens of at least one byte", "an empty one");
    std::optional<std::string> bytes = alphabet.decode(key);
    const bool literal = !bytes.has_value();
    entries.push_back(
        {static_cast<int32_t>(*id), literal ? std::string(key) : *std::move(bytes), literal});
  }
  return entries;
}

class MergeReader {
 public:
  explicit MergeReader(const Field& model) : vocabulary_(model["vocab"].object()) {}

  Result<Merge> read(const Field& field) {
    std::string_view left, right;
    if (field.value().is_string()) {
      const std::string_view both = field.string();
      const size_t space = both.find(' ');
      if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
        return field.expected("two tokens separated by one space");
      }
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else {
      const bool pair = field.value().is_array() && field.array().size() == 2;
      if (!pair || !field.array()[0].is_string() || !field.array()[1].is_string()) {
        return field.expected("\"left right\" or [\"left\", \"right\"]");
      }
      left = field.array()[0].get_string();
      right = field.array()[1].get_string();
    }
    Merge merge;
    CACHALOT_ASSIGN_OR_RETURN(merge.left, find(left, field));
    CACHALOT_ASSIGN_OR_RETURN(merge.right, find(right, field));
    joined_.assign(left).append(right);
    CACHALOT_ASSIGN_OR_RETURN(merge.product, find(joined_, field));
    return merge;
  }

 private:
  Result<int32_t> find(std::string_view token, const Field& field) const {
    const json::value* id = vocabulary_.if_contains(token);
    if (id == nullptr) return field.expected_but("tokens of model.vocab", quoted(token));
    return static_cast<int32_t>(id->get_int64());  // read_vocabulary has checked it
  }

  const json::object& vocabulary_;
  std::string joined_;
};

Status check_model_options(const Field& model) {
  CACHALOT_RETURN_IF_ERROR(expect_type(model, "BPE"));
  const Field dropout = model["dropout"];
  if (!dropout.is_null()) return dropout.not_supported("null");
  for (const char* name : {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
    CACHALOT_RETURN_IF_ERROR(expect_none(model[name]));
  }
  for (const char* name : {"fuse_unk", "byte_fallback"})
    CACHALOT_RETURN_IF_ERROR(expect_off(model[name]));
  return {};
}

Status read_model(const Field& model, TokenizerSpec& spec) {
  CACHALOT_RETURN_IF_ERROR(check_model_options(model));
  const Field ignore_merges = model["ignore_merges"];
  if (!ignore_merges.is_null() && !ignore_merges.value().is_bool())
    return ignore_merges.expected("true or false");
  spec.ignore_merges = ignore_merges.value().is_bool() && ignore_merges.value().get_bool();
  CACHALOT_ASSIGN_OR_RETURN(spec.vocabulary, read_vocabulary(model["vocab"]));
  const Field merges = model["merges"];
  CACHALOT_RETURN_IF_ERROR(merges.expect_array());
  if (merges.array().size() > kMaxMerges) {
    return merges.expected_but(fmt::format("at most {} merges", kMaxMerges),
                               fmt::format("{}", merges.array().size()));
  }
  spec.merges.reserve(merges.array().size());
  MergeReader reader(model);
  for (size_t i = 0; i < merges.array().size(); ++i) {
    CACHALOT_ASSIGN_OR_RETURN(const Merge merge, reader.read(merges.at(i)));
    spec.merges.push_back(merge);
  }
  return {};
}

}  // namespace

Result<TokenizerSpec> parse_tokenizer_json(std::string_view text, std::string_view origin) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value document, parse_json(text, origin));
  const Field root(&document, origin, "");
  if (!document.is_object()) {
    return invalid_argument(
        fmt::format("{}: expected a tokenizer object, found {}", origin, shown(document)));
  }
  CACHALOT_RETURN_IF_ERROR(check_normalizer(root["normalizer"]));
  CACHALOT_RETURN_IF_ERROR(check_pre_tokenizer(root["pre_tokenizer"]));
  CACHALOT_RETURN_IF_ERROR(check_post_processor(root["post_processor"]));
  CACHALOT_RETURN_IF_ERROR(expect_type(root["decoder"], "ByteLevel"));
  // They say how a batch of another program's is cut; what a text encodes to is not theirs to say.
  for (const char* name : {"truncation", "padding"}) {
    if (!root[name].is_null())
      log_warning_once(fmt::format("{}: {} is ignored: texts encode whole", origin, name));
  }
  TokenizerSpec spec;
  CACHALOT_RETURN_IF_ERROR(read_model(root["model"], spec));
  CACHALOT_ASSIGN_OR_RETURN(spec.added_tokens,
                            read_added_tokens(root["added_tokens"], root["model"]["vocab"]));
  return spec;
}

}  // namespace cachalot::text
