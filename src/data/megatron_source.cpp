#include "data/megatron_source.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "data/content_hash.h"

namespace cachalot::data {
namespace {
constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr std::string_view kOldMagic("TNTIDX\0\0", 8);
constexpr size_t kHeaderBytes = 9 + 8 + 1 + 8 + 8;

template <typename T>
T load(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

std::optional<TokenType> token_type(uint8_t code) {
  switch (code) {
    case 1: return TokenType::u8;
    case 2: return TokenType::i8;
    case 3: return TokenType::i16;
    case 4: return TokenType::i32;
    case 5: return TokenType::i64;
    case 8: return TokenType::u16;
    default: return std::nullopt;
  }
}

bool starts_with(std::span<const std::byte> bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}
}  // namespace

Result<std::shared_ptr<const MegatronSource>> MegatronSource::open(const std::string& prefix,
                                                                   int64_t vocab_size) {
  CACHALOT_ASSIGN_OR_RETURN(MappedFile index, MappedFile::open(prefix + ".idx"));
  CACHALOT_ASSIGN_OR_RETURN(MappedFile bin, MappedFile::open(prefix + ".bin"));
  std::shared_ptr<MegatronSource> source(new MegatronSource());
  source->name_ = prefix;
  source->vocab_size_ = vocab_size;
  CACHALOT_RETURN_IF_ERROR(source->parse(index.bytes(), bin.bytes()));
  source->set_fingerprint(index.bytes(), content_hash(bin));
  source->index_file_ = std::move(index);
  source->bin_file_ = std::move(bin);
  return std::shared_ptr<const MegatronSource>(std::move(source));
}

Result<std::shared_ptr<const MegatronSource>> MegatronSource::from_bytes(
    std::span<const std::byte> index, std::span<const std::byte> bin, std::string name,
    int64_t vocab_size) {
  std::shared_ptr<MegatronSource> source(new MegatronSource());
  source->name_ = std::move(name);
  source->vocab_size_ = vocab_size;
  CACHALOT_RETURN_IF_ERROR(source->parse(index, bin));
  source->set_fingerprint(index, XXH3_64bits(bin.data(), bin.size()));
  return std::shared_ptr<const MegatronSource>(std::move(source));
}

Status MegatronSource::parse(std::span<const std::byte> index, std::span<const std::byte> bin) {
  CACHALOT_CHECK(vocab_size_ >= 1 && vocab_size_ <= int64_t{1} << 31);
  const std::string idx = name_ + ".idx";
  if (starts_with(index, kOldMagic)) {
    return unsupported(idx + ": expected an MMIDIDX index, found the older TNTIDX");
  }
  if (!starts_with(index, kMagic)) {
    return invalid_argument(idx + ": expected an MMIDIDX index, found another magic number");
  }
  const auto fail = [&](std::string_view what, auto expected, auto found) {
    return data_loss(fmt::format("{}: {}: expected {}, found {}", idx, what, expected, found));
  };
  if (index.size() < kHeaderBytes) return fail("size", "at least 34 bytes", index.size());
  const auto version = load<uint64_t>(index, 9);
  if (version != 1) {
    return unsupported(fmt::format("{}: version: expected 1, found {}", idx, version));
  }
  const auto code = load<uint8_t>(index, 17);
  const std::optional<TokenType> type = token_type(code);
  if (!type) {
    return unsupported(
        fmt::format("{}: type of ids: expected an integer's, 1 to 5 or 8, found {}", idx, code));
  }
  type_ = *type;
  const auto num_sequences = load<uint64_t>(index, 18);
  const auto num_indices = load<uint64_t>(index, 26);
  const uint64_t room = index.size() - kHeaderBytes;
  // Counts beyond the file are refused before they are multiplied.
  if (num_sequences > room / 12) return fail("sequences", "no more than fit", num_sequences);
  if (num_indices > room / 8) return fail("document indices", "no more than fit", num_indices);
  const uint64_t size = kHeaderBytes + 12 * num_sequences + 8 * num_indices;
  if (index.size() != size && index.size() != size + num_sequences) {
    return fail("size", size, index.size());
  }

  const size_t lengths = kHeaderBytes;
  const size_t offsets = lengths + 4 * num_sequences;
  const size_t documents = offsets + 8 * num_sequences;
  const auto width = static_cast<uint64_t>(token_type_bytes(type_));
  sequence_begin_.push_back(0);
  for (uint64_t s = 0; s < num_sequences; ++s) {
    const auto length = load<int32_t>(index, lengths + 4 * s);
    const auto offset = load<int64_t>(index, offsets + 8 * s);
    if (length < 0) return fail(fmt::format("length of sequence {}", s), "0 or more", length);
    const uint64_t bytes = static_cast<uint64_t>(length) * width;
    if (offset < 0 || static_cast<uint64_t>(offset) > bin.size() ||
        bytes > bin.size() - static_cast<uint64_t>(offset)) {
      return fail(fmt::format("sequence {}", s), fmt::format("to lie in {} bytes", bin.size()),
                  fmt::format("{} bytes at {}", bytes, offset));
    }
    sequence_begin_.push_back(sequence_begin_.back() + length);
    sequence_offset_.push_back(offset);
  }
  if (num_indices == 0) return fail("document indices", "at least one", 0);
  for (uint64_t d = 0; d < num_indices; ++d) {
    const auto first = load<int64_t>(index, documents + 8 * d);
    const int64_t least = documents_.empty() ? 0 : documents_.back();
    if (first < least || first > static_cast<int64_t>(num_sequences) || (d == 0 && first != 0)) {
      return fail(fmt::format("document index {}", d),
                  fmt::format("{} to {}", least, d == 0 ? 0 : num_sequences), first);
    }
    documents_.push_back(first);
  }
  if (documents_.back() != static_cast<int64_t>(num_sequences)) {
    return fail("last document index", num_sequences, documents_.back());
  }
  bin_ = bin;
  return {};
}

void MegatronSource::set_fingerprint(std::span<const std::byte> index, uint64_t content) {
  fingerprint_ = XXH3_64bits_withSeed(index.data(), index.size(), content);
}

int64_t MegatronSource::document_length(int64_t document) const {
  CACHALOT_CHECK(document >= 0 && document < num_documents());
  const auto d = static_cast<size_t>(document);
  return sequence_begin_[static_cast<size_t>(documents_[d + 1])] -
         sequence_begin_[static_cast<size_t>(documents_[d])];
}

Status MegatronSource::read(int64_t document, int64_t begin, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  CACHALOT_CHECK(begin >= 0 && begin + count <= document_length(document));
  if (count == 0) return {};
  const int64_t width = token_type_bytes(type_);
  int64_t place =
      sequence_begin_[static_cast<size_t>(documents_[static_cast<size_t>(document)])] + begin;
  const int64_t end = place + count;
  // The last sequence that begins at or before the place: empty ones before it are passed over.
  auto s =
      static_cast<size_t>(std::upper_bound(sequence_begin_.begin(), sequence_begin_.end(), place) -
                          sequence_begin_.begin() - 1);
  for (; place < end; ++s) {
    const int64_t inside = place - sequence_begin_[s];
    const int64_t part = std::min(end, sequence_begin_[s + 1]) - place;
    const int64_t offset = sequence_offset_[s] + inside * width;
    CACHALOT_RETURN_IF_ERROR(decode_tokens(
        bin_.subspan(static_cast<size_t>(offset), static_cast<size_t>(part * width)), type_,
        vocab_size_, name_, place,
        out.subspan(static_cast<size_t>(count - (end - place)), static_cast<size_t>(part))));
    place += part;
  }
  return {};
}

}  // namespace cachalot::data
