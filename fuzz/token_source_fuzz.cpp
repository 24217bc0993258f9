// libFuzzer target: token files of all forms on any bytes. A reader may refuse them; what it
// accepts must be readable to the last token, or say which id is wrong.
//
// The first byte chooses: 0 a shard as it is; 1 a shard whose checksums and magic numbers are first
// made right, so that the fuzzer gets past them; 2 nanoGPT; 3 and 4 a Megatron index, with the rest
// of the input after its 16-bit length as ids.
#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "data/megatron_source.h"
#include "data/nanogpt_source.h"
#include "data/token_shard.h"

namespace {
using namespace cachalot;
using namespace cachalot::data;

constexpr size_t kHeaderBytes = 64;
constexpr size_t kTrailerBytes = 48;

void put(std::vector<std::byte>& file, size_t offset, uint64_t value) {
  std::memcpy(file.data() + offset, &value, 8);
}
uint64_t get(const std::vector<std::byte>& file, size_t offset) {
  uint64_t value;
  std::memcpy(&value, file.data() + offset, 8);
  return value;
}

// As far as the counts that the file claims lie inside it.
void mend(std::vector<std::byte>& file) {
  if (file.size() < kHeaderBytes + kTrailerBytes) return;
  const bool has_weights = (file[8] & std::byte{1}) == std::byte{0};
  std::memcpy(file.data(), has_weights ? "CACHALTK\2\0\0\0" : "CACHALTK\1\0\0\0", 12);
  put(file, 56, XXH3_64bits_withSeed(file.data(), 56, 0));
  const size_t trailer = file.size() - kTrailerBytes;
  std::memcpy(file.data() + trailer + 32, "CACHALTE", 8);
  uint32_t token_bytes;
  std::memcpy(&token_bytes, file.data() + 12, 4);
  const uint64_t room = trailer - kHeaderBytes;
  const uint64_t ends = get(file, trailer) <= room / 8 ? get(file, trailer) * 8 : 0;
  const uint64_t num_tokens = get(file, trailer + 8);
  if (token_bytes <= 4 && num_tokens <= room && num_tokens * token_bytes <= room) {
    put(file, trailer + 16,
        XXH3_64bits_withSeed(file.data() + kHeaderBytes, num_tokens * token_bytes, 1));
  }
  const uint64_t weights = has_weights && num_tokens <= room / 4 ? num_tokens * 4 : 0;
  const uint64_t behind = ends + (weights + 7) / 8 * 8;
  if (behind <= room) {
    const std::byte* const first = file.data() + trailer - behind;
    const uint64_t of_ends = XXH3_64bits_withSeed(first, ends, 2);
    put(file, trailer + 24,
        weights == 0 ? of_ends : XXH3_64bits_withSeed(first + ends, weights, of_ends));
  }
  put(file, trailer + 40, XXH3_64bits_withSeed(file.data() + trailer, 40, 3));
}

template <typename T>
void read_all(const Result<std::shared_ptr<const T>>& opened) {
  if (!opened.has_value()) {
    CACHALOT_CHECK(opened.error().message().find("input") != std::string::npos);
    return;
  }
  const TokenSource& source = **opened;
  int64_t num_tokens = 0;
  std::vector<int32_t> ids;
  std::vector<float> weights;
  for (int64_t d = 0; d < source.num_documents(); ++d) {
    const int64_t length = source.document_length(d);
    CACHALOT_CHECK(length >= 0);
    num_tokens += length;
    // Megatron's sequences may overlap: a small file can hold long documents.
    for (int64_t begin = 0; begin < std::min<int64_t>(length, 10000); begin += 100) {
      ids.resize(static_cast<size_t>(std::min<int64_t>(100, length - begin)));
      weights.resize(ids.size());
      CACHALOT_CHECK(source.read_weights(d, begin, weights).ok());
      for (const float weight : weights) CACHALOT_CHECK(weight >= 0);
      const Status status = source.read(d, begin, ids);
      if (!status.ok()) continue;
      for (const int32_t id : ids) CACHALOT_CHECK(id >= 0 && id < source.vocab_size());
    }
  }
  CACHALOT_CHECK(num_tokens == source.num_tokens());
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const std::byte> input = std::as_bytes(std::span(data, size)).subspan(1);
  std::vector<std::byte> file(input.begin(), input.end());
  switch (data[0] % 5) {
    case 1: mend(file); [[fallthrough]];
    case 0:
      read_all(TokenShard::from_bytes(file, "input", {.verify_tokens = data[0] >= 128}));
      break;
    case 2:
      read_all(NanogptSource::from_bytes(file, "input", {.vocab_size = 60000, .separator = 7}));
      break;
    default: {
      if (file.size() < 2) return 0;
      uint16_t index_size;
      std::memcpy(&index_size, file.data(), 2);
      const auto rest = std::span(std::as_const(file)).subspan(2);
      const size_t cut = std::min<size_t>(index_size, rest.size());
      read_all(MegatronSource::from_bytes(rest.first(cut), rest.subspan(cut), "input", 60000));
    }
  }
  return 0;
}
