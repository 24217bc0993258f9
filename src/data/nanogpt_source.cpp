#include "data/nanogpt_source.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "data/content_hash.h"

namespace cachalot::data {
namespace {
constexpr size_t kHeaderBytes = 256 * sizeof(int32_t);

struct HeaderForm {
  int32_t magic;
  int32_t version;
  TokenType type;
};
constexpr HeaderForm kForms[] = {{20240520, 1, TokenType::u16}, {20240801, 7, TokenType::u32}};

template <typename T>
void append_ends(std::span<const std::byte> tokens, int32_t separator, bool is_first,
                 std::vector<int64_t>& ends) {
  const auto count = static_cast<int64_t>(tokens.size() / sizeof(T));
  for (int64_t i = 0; i < count; ++i) {
    T id;
    std::memcpy(&id, tokens.data() + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    if (id != static_cast<T>(separator)) continue;
    const int64_t end = is_first ? i : i + 1;
    if (end > 0) ends.push_back(end);
  }
}
}  // namespace

Result<std::shared_ptr<const NanogptSource>> NanogptSource::open(const std::string& path,
                                                                 Options options) {
  CACHALOT_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  std::shared_ptr<NanogptSource> source(new NanogptSource());
  source->name_ = path;
  CACHALOT_RETURN_IF_ERROR(source->parse(file.bytes(), options));
  source->set_fingerprint(content_hash(file));
  source->file_ = std::move(file);
  return std::shared_ptr<const NanogptSource>(std::move(source));
}

Result<std::shared_ptr<const NanogptSource>> NanogptSource::from_bytes(
    std::span<const std::byte> bytes, std::string name, Options options) {
  std::shared_ptr<NanogptSource> source(new NanogptSource());
  source->name_ = std::move(name);
  CACHALOT_RETURN_IF_ERROR(source->parse(bytes, options));
  source->set_fingerprint(XXH3_64bits(bytes.data(), bytes.size()));
  return std::shared_ptr<const NanogptSource>(std::move(source));
}

Status NanogptSource::parse(std::span<const std::byte> bytes, const Options& options) {
  CACHALOT_CHECK(options.vocab_size >= 1 && options.vocab_size <= int64_t{1} << 31);
  if (options.separator && (*options.separator < 0 || *options.separator >= options.vocab_size)) {
    return invalid_argument(fmt::format("{}: separator: expected an id in [0, {}), found {}", name_,
                                        options.vocab_size, *options.separator));
  }
  vocab_size_ = options.vocab_size;
  tokens_ = bytes;
  std::array<int32_t, 3> header = {};
  if (bytes.size() >= kHeaderBytes) std::memcpy(header.data(), bytes.data(), sizeof(header));
  const auto form = std::find_if(std::begin(kForms), std::end(kForms),
                                 [&](const HeaderForm& f) { return f.magic == header[0]; });
  if (form != std::end(kForms)) {
    if (header[1] != form->version) {
      return unsupported(fmt::format("{}: version of magic {}: expected {}, found {}", name_,
                                     form->magic, form->version, header[1]));
    }
    type_ = form->type;
    tokens_ = bytes.subspan(kHeaderBytes);
  }
  const auto width = static_cast<size_t>(token_type_bytes(type_));
  if (tokens_.size() % width != 0) {
    return data_loss(
        fmt::format("{}: expected ids of {} bytes, found {} bytes", name_, width, tokens_.size()));
  }
  const auto num_tokens = static_cast<int64_t>(tokens_.size() / width);
  if (form != std::end(kForms) && header[2] != num_tokens) {
    return data_loss(fmt::format("{}: expected {} tokens, found {}", name_, header[2], num_tokens));
  }
  find_documents(options, num_tokens);
  return {};
}

void NanogptSource::set_fingerprint(uint64_t content) {
  fingerprint_ = XXH3_64bits_withSeed(ends_.data(), ends_.size() * sizeof(int64_t), content);
}

void NanogptSource::find_documents(const Options& options, int64_t num_tokens) {
  if (options.separator) {
    if (type_ == TokenType::u16) {
      append_ends<uint16_t>(tokens_, *options.separator, options.separator_is_first, ends_);
    } else {
      append_ends<uint32_t>(tokens_, *options.separator, options.separator_is_first, ends_);
    }
  }
  const int64_t last = ends_.empty() ? 0 : ends_.back();
  if (num_tokens > last) ends_.push_back(num_tokens);
}

int64_t NanogptSource::document_begin(int64_t document) const {
  return document == 0 ? 0 : ends_[static_cast<size_t>(document) - 1];
}

int64_t NanogptSource::document_length(int64_t document) const {
  CACHALOT_CHECK(document >= 0 && document < num_documents());
  return ends_[static_cast<size_t>(document)] - document_begin(document);
}

Status NanogptSource::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  CACHALOT_CHECK(begin >= 0 && begin + count <= document_length(document));
  const int64_t first = document_begin(document) + begin;
  const int64_t width = token_type_bytes(type_);
  return decode_tokens(
      tokens_.subspan(static_cast<size_t>(first * width), static_cast<size_t>(count * width)),
      type_, vocab_size_, name_, first, out);
}

}  // namespace cachalot::data
