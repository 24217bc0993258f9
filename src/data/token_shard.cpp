#include "data/token_shard.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace cachalot::data {
namespace {
constexpr std::array<char, 8> kMagic = {'C', 'A', 'C', 'H', 'A', 'L', 'T', 'K'};
constexpr std::array<char, 8> kEndMagic = {'C', 'A', 'C', 'H', 'A', 'L', 'T', 'E'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kWeightedVersion = 2;  // tokens have loss weights
constexpr int64_t kMaxNarrowVocab = 65536;
constexpr int64_t kMaxVocab = (int64_t{1} << 31) - 1;
constexpr size_t kEndBytes = sizeof(uint64_t);
enum SectionSeed : uint64_t { header_seed, tokens_seed, ends_seed, trailer_seed };

struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t token_bytes = 0;
  uint64_t vocab_size = 0;
  uint64_t tokenizer_fingerprint = 0;
  std::array<uint64_t, 3> reserved = {};
  uint64_t checksum = 0;  // XXH3-64 of all before it
};
static_assert(sizeof(Header) == 64 && offsetof(Header, checksum) == 56);

// The counts are known when all documents have been written, so they come last.
struct Trailer {
  uint64_t num_documents = 0;
  uint64_t num_tokens = 0;
  uint64_t tokens_checksum = 0;
  uint64_t ends_checksum = 0;
  std::array<char, 8> magic = kEndMagic;
  uint64_t checksum = 0;
};
static_assert(sizeof(Trailer) == 48 && offsetof(Trailer, checksum) == 40);

template <typename T>
uint64_t checksum_of(const T& part, SectionSeed seed) {
  return XXH3_64bits_withSeed(&part, offsetof(T, checksum), seed);
}

TokenType token_type(int64_t vocab_size) {
  return vocab_size <= kMaxNarrowVocab ? TokenType::u16 : TokenType::u32;
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

bool is_weight(float weight) { return std::isfinite(weight) && weight >= 0; }

// Of the document ends and, behind them, the weights, if there are any.
uint64_t ends_checksum_of(std::span<const std::byte> ends, std::span<const std::byte> weights) {
  const uint64_t of_ends = XXH3_64bits_withSeed(ends.data(), ends.size(), ends_seed);
  return weights.empty() ? of_ends : XXH3_64bits_withSeed(weights.data(), weights.size(), of_ends);
}

size_t padding_to_8(size_t size) { return (8 - size % 8) % 8; }

// Two shards are the same to a cursor if they hold the same tokens in the same documents.
uint64_t fingerprint_of(const Trailer& trailer) {
  return XXH3_64bits_withSeed(&trailer, offsetof(Trailer, magic), trailer_seed);
}
}  // namespace

TokenShardWriter::TokenShardWriter(AtomicFile file, int64_t vocab_size, bool with_weights)
    : file_(std::move(file)),
      vocab_size_(vocab_size),
      with_weights_(with_weights),
      tokens_hash_(XXH3_createState()) {
  CACHALOT_CHECK(tokens_hash_ != nullptr);
  XXH3_64bits_reset_withSeed(tokens_hash_.get(), tokens_seed);
}

Result<TokenShardWriter> TokenShardWriter::create(const std::string& path, int64_t vocab_size,
                                                  uint64_t tokenizer_fingerprint,
                                                  bool with_weights) {
  CACHALOT_CHECK(vocab_size >= 1 && vocab_size <= kMaxVocab);
  Header header;
  header.version = with_weights ? kWeightedVersion : kVersion;
  header.token_bytes = static_cast<uint32_t>(token_type_bytes(token_type(vocab_size)));
  header.vocab_size = static_cast<uint64_t>(vocab_size);
  header.tokenizer_fingerprint = tokenizer_fingerprint;
  header.checksum = checksum_of(header, header_seed);
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  CACHALOT_RETURN_IF_ERROR(file.write(bytes_of(header)));
  return TokenShardWriter(std::move(file), vocab_size, with_weights);
}

Status TokenShardWriter::write_tokens(std::span<const std::byte> bytes) {
  XXH3_64bits_update(tokens_hash_.get(), bytes.data(), bytes.size());
  return file_.write(bytes);
}

Status TokenShardWriter::add_document(std::span<const int32_t> ids,
                                      std::span<const float> weights) {
  for (const int32_t id : ids) CACHALOT_CHECK(id >= 0 && id < vocab_size_);
  CACHALOT_CHECK(weights.size() == (with_weights_ ? ids.size() : 0));
  for (const float weight : weights) CACHALOT_CHECK(is_weight(weight));
  weights_.insert(weights_.end(), weights.begin(), weights.end());
  if (token_type(vocab_size_) == TokenType::u32) {
    CACHALOT_RETURN_IF_ERROR(write_tokens(std::as_bytes(ids)));
  } else {
    buffer_.resize(ids.size() * sizeof(uint16_t));
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto id = static_cast<uint16_t>(ids[i]);
      std::memcpy(buffer_.data() + i * sizeof(id), &id, sizeof(id));
    }
    CACHALOT_RETURN_IF_ERROR(write_tokens(buffer_));
  }
  ends_.push_back(static_cast<uint64_t>(num_tokens()) + ids.size());
  return {};
}

Result<uint64_t> TokenShardWriter::finish() {
  const std::array<std::byte, 8> zeros = {};
  const size_t token_bytes = static_cast<size_t>(token_type_bytes(token_type(vocab_size_)));
  const size_t tokens_size = static_cast<size_t>(num_tokens()) * token_bytes;
  CACHALOT_RETURN_IF_ERROR(file_.write(std::span(zeros).first(padding_to_8(tokens_size))));
  const auto ends = std::as_bytes(std::span(ends_));
  const auto weights = std::as_bytes(std::span(weights_));
  CACHALOT_RETURN_IF_ERROR(file_.write(ends));
  CACHALOT_RETURN_IF_ERROR(file_.write(weights));
  CACHALOT_RETURN_IF_ERROR(file_.write(std::span(zeros).first(padding_to_8(weights.size()))));
  Trailer trailer;
  trailer.num_documents = ends_.size();
  trailer.num_tokens = static_cast<uint64_t>(num_tokens());
  trailer.tokens_checksum = XXH3_64bits_digest(tokens_hash_.get());
  trailer.ends_checksum = ends_checksum_of(ends, weights);
  trailer.checksum = checksum_of(trailer, trailer_seed);
  CACHALOT_RETURN_IF_ERROR(file_.write(bytes_of(trailer)));
  CACHALOT_RETURN_IF_ERROR(file_.commit());
  return fingerprint_of(trailer);
}

Result<std::shared_ptr<const TokenShard>> TokenShard::open(const std::string& path,
                                                           Options options) {
  CACHALOT_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  std::shared_ptr<TokenShard> shard(new TokenShard());
  shard->name_ = path;
  CACHALOT_RETURN_IF_ERROR(shard->parse(file.bytes(), options));
  shard->file_ = std::move(file);
  return std::shared_ptr<const TokenShard>(std::move(shard));
}

Result<std::shared_ptr<const TokenShard>> TokenShard::from_bytes(std::span<const std::byte> bytes,
                                                                 std::string name,
                                                                 Options options) {
  std::shared_ptr<TokenShard> shard(new TokenShard());
  shard->name_ = std::move(name);
  CACHALOT_RETURN_IF_ERROR(shard->parse(bytes, options));
  return std::shared_ptr<const TokenShard>(std::move(shard));
}

Status TokenShard::parse(std::span<const std::byte> bytes, Options options) {
  const auto fail = [&](std::string_view what, auto expected, auto found) {
    return data_loss(fmt::format("{}: {}: expected {}, found {}", name_, what, expected, found));
  };
  constexpr size_t kFrameBytes = sizeof(Header) + sizeof(Trailer);
  if (bytes.size() < kFrameBytes) return fail("size", "at least 112 bytes", bytes.size());

  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kMagic) {
    return invalid_argument(name_ + ": expected a token shard, found another magic number");
  }
  if (header.version != kVersion && header.version != kWeightedVersion) {
    return unsupported(fmt::format("{}: version: expected {} or {}, found {}", name_, kVersion,
                                   kWeightedVersion, header.version));
  }
  has_weights_ = header.version == kWeightedVersion;
  if (header.checksum != checksum_of(header, header_seed)) {
    return fail("header checksum", checksum_of(header, header_seed), header.checksum);
  }
  if (header.vocab_size < 1 || header.vocab_size > uint64_t{kMaxVocab}) {
    return fail("vocab_size", "1 to 2^31 - 1", header.vocab_size);
  }
  vocab_size_ = static_cast<int64_t>(header.vocab_size);
  tokenizer_fingerprint_ = header.tokenizer_fingerprint;
  type_ = token_type(vocab_size_);
  const auto token_bytes = static_cast<uint64_t>(token_type_bytes(type_));
  if (header.token_bytes != token_bytes) {
    return fail("token_bytes", token_bytes, header.token_bytes);
  }
  if (header.reserved != decltype(header.reserved){}) return fail("reserved bytes", "0", "others");

  Trailer trailer;
  std::memcpy(&trailer, bytes.data() + bytes.size() - sizeof(trailer), sizeof(trailer));
  if (trailer.magic != kEndMagic) {
    return data_loss(name_ + ": expected the trailer's magic number at the end: truncated?");
  }
  if (trailer.checksum != checksum_of(trailer, trailer_seed)) {
    return fail("trailer checksum", checksum_of(trailer, trailer_seed), trailer.checksum);
  }
  // Counts beyond the file are refused before they are multiplied.
  const uint64_t room = bytes.size() - kFrameBytes;
  if (trailer.num_tokens > room / token_bytes) {
    return fail("num_tokens", "no more than fit", trailer.num_tokens);
  }
  if (trailer.num_documents > room / kEndBytes) {
    return fail("num_documents", "no more than fit", trailer.num_documents);
  }
  const uint64_t tokens_size = trailer.num_tokens * token_bytes;
  const uint64_t padding = padding_to_8(tokens_size);
  const uint64_t ends_size = trailer.num_documents * kEndBytes;
  // 4 bytes a token cannot overflow where its 2 or 4 lie inside the file.
  const uint64_t weights_size = has_weights_ ? trailer.num_tokens * sizeof(float) : 0;
  const uint64_t weights_padding = padding_to_8(weights_size);
  const uint64_t all = tokens_size + padding + ends_size + weights_size + weights_padding;
  if (all != room) return fail("size", kFrameBytes + all, bytes.size());
  tokens_ = bytes.subspan(sizeof(Header), tokens_size);
  ends_ = bytes.subspan(sizeof(Header) + tokens_size + padding, ends_size);
  weights_ = bytes.subspan(sizeof(Header) + tokens_size + padding + ends_size, weights_size);
  num_tokens_ = static_cast<int64_t>(trailer.num_tokens);
  num_documents_ = static_cast<int64_t>(trailer.num_documents);
  fingerprint_ = fingerprint_of(trailer);

  for (const auto gap : {bytes.subspan(sizeof(Header) + tokens_size, padding),
                         bytes.subspan(sizeof(Header) + all - weights_padding, weights_padding)}) {
    for (const std::byte pad : gap)
      if (pad != std::byte{0}) return fail("padding", 0, static_cast<int>(pad));
  }
  const uint64_t ends_checksum = ends_checksum_of(ends_, weights_);
  if (ends_checksum != trailer.ends_checksum) {
    return fail(
        has_weights_ ? "checksum of document ends and weights" : "checksum of document ends",
        trailer.ends_checksum, ends_checksum);
  }
  uint64_t previous = 0;
  for (int64_t i = 0; i < num_documents_; ++i) {
    uint64_t end;
    std::memcpy(&end, ends_.data() + static_cast<size_t>(i) * kEndBytes, kEndBytes);
    if (end < previous || end > trailer.num_tokens) {
      return fail(fmt::format("end of document {}", i),
                  fmt::format("{} to {}", previous, trailer.num_tokens), end);
    }
    previous = end;
  }
  if (previous != trailer.num_tokens) {
    return fail("end of the last document", trailer.num_tokens, previous);
  }
  for (size_t i = 0; i < weights_.size(); i += sizeof(float)) {
    float weight;
    std::memcpy(&weight, weights_.data() + i, sizeof(weight));
    if (!is_weight(weight))
      return fail(fmt::format("weight of token {}", i / sizeof(float)), "0 or more", weight);
  }
  if (options.verify_tokens) {
    const uint64_t checksum = XXH3_64bits_withSeed(tokens_.data(), tokens_.size(), tokens_seed);
    if (checksum != trailer.tokens_checksum) {
      return fail("checksum of tokens", trailer.tokens_checksum, checksum);
    }
  }
  return {};
}

int64_t TokenShard::document_begin(int64_t document) const {
  if (document == 0) return 0;
  uint64_t end;
  std::memcpy(&end, ends_.data() + static_cast<size_t>(document - 1) * kEndBytes, kEndBytes);
  return static_cast<int64_t>(end);
}

int64_t TokenShard::document_length(int64_t document) const {
  CACHALOT_CHECK(document >= 0 && document < num_documents_);
  return document_begin(document + 1) - document_begin(document);
}

Status TokenShard::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  CACHALOT_CHECK(begin >= 0 && begin + count <= document_length(document));
  const int64_t first = document_begin(document) + begin;
  const int64_t width = token_type_bytes(type_);
  return decode_tokens(
      tokens_.subspan(static_cast<size_t>(first * width), static_cast<size_t>(count * width)),
      type_, vocab_size_, name_, first, out);
}

Status TokenShard::read_weights(int64_t document, int64_t begin, std::span<float> out) const {
  if (!has_weights_) return TokenSource::read_weights(document, begin, out);
  CACHALOT_CHECK(begin >= 0 &&
                 begin + static_cast<int64_t>(out.size()) <= document_length(document));
  const auto first = static_cast<size_t>(document_begin(document) + begin);
  const auto bytes = weights_.subspan(first * sizeof(float), out.size_bytes());
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return {};
}

}  // namespace cachalot::data
