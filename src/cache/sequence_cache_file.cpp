// SequenceCache to a file and back. Byte layout: docs/formats/cache_file.md.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "cache/cache_file_section.h"
#include "cache/sequence_cache.h"
#include "device/gpu.h"

namespace cachalot::cache {
namespace {
constexpr std::array<char, 8> kMagic = {'C', 'A', 'C', 'H', 'A', 'L', 'K', 'V'};
constexpr uint32_t kVersion = 1;
constexpr int64_t kChecksumBytes = 8;
// Far above any context; keeps products of a corrupt count inside int64_t.
constexpr int64_t kMaxTokens = int64_t{1} << 40;
enum SectionSeed : uint64_t { kHeader, kTokenIds, kState, kRows };

struct FileHeader {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t reserved = 0;
  uint64_t fingerprint = 0;
  uint64_t layout_hash = 0;
  int64_t num_tokens = 0;
  int64_t ring_end = 0;
  int64_t num_token_ids = 0;
  int64_t state_bytes = 0;
  int64_t rows_bytes = 0;
  uint64_t checksum = 0;  // XXH3-64 of all before it
};
static_assert(sizeof(FileHeader) == 80 && offsetof(FileHeader, checksum) == 72);

uint64_t header_checksum(const FileHeader& header) {
  return XXH3_64bits_withSeed(&header, offsetof(FileHeader, checksum), kHeader);
}

// The ring positions that are alive: those the ring still holds of positions below ring_end, less
// the rewound ones.
int64_t first_live_position(int64_t capacity, int64_t ring_end) {
  return std::max<int64_t>(0, ring_end - capacity);
}

int64_t live_state_bytes(const CacheLayout& layout, int64_t num_tokens, int64_t ring_end) {
  int64_t total = 0;
  for (int64_t i = 0; i < layout.num_layers(); ++i) {
    const LayerStreams& layer = layout.layer(i);
    const auto add = [&](const tensor::RowLayout& row, int64_t capacity) {
      total += (num_tokens - first_live_position(capacity, ring_end)) * row.row_bytes();
    };
    if (layer.window_capacity > 0) add(layer.window, layer.window_capacity);
    if (layer.tail_capacity > 0) add(layer.tail, layer.tail_capacity);
    if (layer.index_tail_capacity > 0) add(layer.index_tail, layer.index_tail_capacity);
  }
  return total;
}

int64_t live_rows_bytes(const CacheLayout& layout, int64_t num_tokens) {
  int64_t total = 0;
  for (int64_t i = 0; i < layout.num_layers(); ++i) {
    const LayerStreams& layer = layout.layer(i);
    if (layer.ratio > 0)
      total += num_tokens / layer.ratio * (layer.entry.row_bytes() + layer.index_key.row_bytes());
  }
  return total;
}

// Calls fn(first byte, number of bytes) for one layer's live state bytes in file order.
template <typename Fn>
Status for_each_state_piece(const tensor::LayerRows& views, int64_t num_tokens, int64_t ring_end,
                            Fn&& fn) {
  for (const tensor::RowRing& ring : {views.window, views.tail, views.index_tail}) {
    if (ring.base == nullptr) continue;
    for (int64_t p = first_live_position(ring.capacity, ring_end); p < num_tokens; ++p) {
      const tensor::RowRef row = ring.row(p);
      CACHALOT_RETURN_IF_ERROR(fn(row.data, ring.layout.data_bytes));
      CACHALOT_RETURN_IF_ERROR(fn(row.scale, ring.layout.scale_bytes));
    }
  }
  return {};
}

// The same for the live rows of one layer in one block.
template <typename Fn>
Status for_each_block_piece(const tensor::LayerRows& views, int64_t block_idx, int64_t ratio,
                            int64_t num_tokens, Fn&& fn) {
  if (ratio == 0) return {};
  for (const tensor::RowBlocks& rows : {views.entries, views.index_keys}) {
    if (rows.rows_per_block == 0) continue;
    const int64_t first = block_idx * rows.rows_per_block;
    const int64_t count = std::min(rows.rows_per_block, num_tokens / ratio - first);
    if (count <= 0) continue;
    const tensor::RowRef row = rows.row(first);
    CACHALOT_RETURN_IF_ERROR(fn(row.data, count * rows.layout.data_bytes));
    CACHALOT_RETURN_IF_ERROR(fn(row.scale, count * rows.layout.scale_bytes));
  }
  return {};
}

template <typename ViewsOf, typename Fn>
Status for_each_live_state_piece(const CacheLayout& layout, int64_t num_tokens, int64_t ring_end,
                                 ViewsOf&& views_of, Fn&& fn) {
  for (int64_t i = 0; i < layout.num_layers(); ++i) {
    CACHALOT_RETURN_IF_ERROR(for_each_state_piece(views_of(i), num_tokens, ring_end, fn));
  }
  return {};
}

template <typename ViewsOf, typename Fn>
Status for_each_live_row_piece(const CacheLayout& layout, int64_t num_tokens, ViewsOf&& views_of,
                               Fn&& fn) {
  for (int64_t block = 0; block < layout.num_blocks(num_tokens); ++block) {
    for (int64_t i = 0; i < layout.num_layers(); ++i) {
      CACHALOT_RETURN_IF_ERROR(
          for_each_block_piece(views_of(i), block, layout.layer(i).ratio, num_tokens, fn));
    }
  }
  return {};
}

template <typename T>
Status expect_field(const std::string& name, const char* field, T expected, T found,
                    StatusCode code) {
  if (expected == found) return {};
  return {code, fmt::format("{}: {}: expected {}, found {}", name, field, expected, found)};
}

Result<FileHeader> read_header(ByteSource& source, const std::string& name) {
  if (source.size() < static_cast<int64_t>(sizeof(FileHeader))) {
    return data_loss(fmt::format("{}: expected at least {} bytes, found {}", name,
                                 sizeof(FileHeader), source.size()));
  }
  FileHeader header;
  CACHALOT_RETURN_IF_ERROR(source.read(std::as_writable_bytes(std::span(&header, 1))));
  if (header.magic != kMagic) {
    return invalid_argument(
        fmt::format("{}: expected a cache file, which starts with \"{}\", found other bytes", name,
                    std::string_view(kMagic.data(), kMagic.size())));
  }
  CACHALOT_RETURN_IF_ERROR(
      expect_field(name, "version", kVersion, header.version, StatusCode::invalid_argument));
  const uint64_t checksum = header_checksum(header);
  if (checksum != header.checksum) {
    return data_loss(fmt::format("{}: header: expected checksum {:016x}, found {:016x}", name,
                                 header.checksum, checksum));
  }
  return header;
}

// The header's claims against the layout, the pool and the file's size: after this every size in it
// is true.
Status check_header(const FileHeader& header, const BlockPool& pool, int64_t file_bytes,
                    const std::string& name) {
  const CacheLayout& layout = pool.layout();
  if (header.fingerprint != layout.fingerprint()) {
    return invalid_argument(fmt::format(
        "{}: weights, configuration and precision: expected fingerprint {:016x}, found {:016x}",
        name, layout.fingerprint(), header.fingerprint));
  }
  if (header.layout_hash != layout.hash()) {
    return invalid_argument(fmt::format("{}: cache layout: expected {:016x}, found {:016x}", name,
                                        layout.hash(), header.layout_hash));
  }
  CACHALOT_RETURN_IF_ERROR(
      expect_field(name, "reserved", 0u, header.reserved, StatusCode::data_loss));
  if (header.num_tokens < 0 || header.num_tokens > kMaxTokens) {
    return data_loss(fmt::format("{}: num_tokens: expected 0 to {}, found {}", name, kMaxTokens,
                                 header.num_tokens));
  }
  if (header.ring_end < header.num_tokens ||
      header.ring_end - header.num_tokens > layout.rewind_slack() ||
      (header.num_tokens == 0 && header.ring_end != 0)) {
    return data_loss(fmt::format(
        "{}: ring_end: expected num_tokens {} and at most the rewind slack of {} more, found {}",
        name, header.num_tokens, layout.rewind_slack(), header.ring_end));
  }
  if (header.num_token_ids != 0 && header.num_token_ids != header.num_tokens) {
    return data_loss(fmt::format("{}: num_token_ids: expected 0 or {}, found {}", name,
                                 header.num_tokens, header.num_token_ids));
  }
  if (layout.num_blocks(header.num_tokens) > pool.blocks().max_items()) {
    return resource_exhausted(
        fmt::format("{}: expected at most the pool's {} blocks of {} tokens, found {} tokens", name,
                    pool.blocks().max_items(), layout.block_tokens(), header.num_tokens));
  }
  CACHALOT_RETURN_IF_ERROR(expect_field(
      name, "state bytes", live_state_bytes(layout, header.num_tokens, header.ring_end),
      header.state_bytes, StatusCode::data_loss));
  CACHALOT_RETURN_IF_ERROR(expect_field(name, "row bytes",
                                        live_rows_bytes(layout, header.num_tokens),
                                        header.rows_bytes, StatusCode::data_loss));
  const int64_t expected_bytes = static_cast<int64_t>(sizeof(FileHeader)) +
                                 header.num_token_ids * 4 + header.state_bytes + header.rows_bytes +
                                 3 * kChecksumBytes;
  return expect_field(name, "file size in bytes", expected_bytes, file_bytes,
                      StatusCode::data_loss);
}

Status check_prompt(std::span<const int32_t> saved, int64_t num_tokens,
                    std::span<const int32_t> prompt, const std::string& name) {
  if (static_cast<int64_t>(saved.size()) != num_tokens) {
    return invalid_argument(fmt::format(
        "{}: token ids: expected those of {} tokens to compare with the prompt, found none", name,
        num_tokens));
  }
  if (saved.size() > prompt.size()) {
    return invalid_argument(fmt::format("{}: expected a prefix of the prompt's {} tokens, found {}",
                                        name, prompt.size(), saved.size()));
  }
  for (size_t i = 0; i < saved.size(); ++i) {
    if (saved[i] != prompt[i]) {
      return invalid_argument(fmt::format("{}: token {}: expected the prompt's id {}, found {}",
                                          name, i, prompt[i], saved[i]));
    }
  }
  return {};
}

}  // namespace

Status SequenceCache::save(const std::string& path, std::span<const int32_t> token_ids) const {
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  CACHALOT_RETURN_IF_ERROR(save_to(file, token_ids));
  return file.commit();
}

Status SequenceCache::save_to(Sink& sink, std::span<const int32_t> token_ids) const {
  if (!token_ids.empty() && static_cast<int64_t>(token_ids.size()) != num_tokens_) {
    return invalid_argument(fmt::format("save cache: token ids: expected none or {}, found {}",
                                        num_tokens_, token_ids.size()));
  }
  FileHeader header;
  header.fingerprint = layout().fingerprint();
  header.layout_hash = layout().hash();
  header.num_tokens = num_tokens_;
  header.ring_end = ring_end_;
  header.num_token_ids = static_cast<int64_t>(token_ids.size());
  header.state_bytes = live_state_bytes(layout(), num_tokens_, ring_end_);
  header.rows_bytes = live_rows_bytes(layout(), num_tokens_);
  header.checksum = header_checksum(header);
  CACHALOT_RETURN_IF_ERROR(sink.write(std::as_bytes(std::span(&header, 1))));

  SectionWriter ids(sink, kTokenIds);
  CACHALOT_RETURN_IF_ERROR(ids.write(std::as_bytes(token_ids)));
  CACHALOT_RETURN_IF_ERROR(ids.finish());

  const auto views_of = [&](int64_t layer) { return make_views(layer); };
  std::vector<std::byte> of_gpu;
  const auto write_to = [&](SectionWriter& section) {
    return [&](const std::byte* data, int64_t n) {
      if (pool_->gpu() != nullptr) {
        of_gpu.resize(static_cast<size_t>(n));
        pool_->gpu()->copy(of_gpu.data(), data, n);
        data = of_gpu.data();
      }
      return section.write({data, static_cast<size_t>(n)});
    };
  };
  SectionWriter state(sink, kState);
  CACHALOT_RETURN_IF_ERROR(
      for_each_live_state_piece(layout(), num_tokens_, ring_end_, views_of, write_to(state)));
  CACHALOT_RETURN_IF_ERROR(state.finish());
  SectionWriter rows(sink, kRows);
  CACHALOT_RETURN_IF_ERROR(
      for_each_live_row_piece(layout(), num_tokens_, views_of, write_to(rows)));
  return rows.finish();
}

Result<RestoredSequence> SequenceCache::restore(BlockPool& pool, const std::string& path,
                                                std::optional<std::span<const int32_t>> prompt) {
  CACHALOT_ASSIGN_OR_RETURN(FileSource source, FileSource::open(path));
  return restore_from(pool, source, path, prompt);
}

Result<RestoredSequence> SequenceCache::restore_from(
    BlockPool& pool, ByteSource& source, const std::string& name,
    std::optional<std::span<const int32_t>> prompt) {
  CACHALOT_ASSIGN_OR_RETURN(const FileHeader header, read_header(source, name));
  CACHALOT_RETURN_IF_ERROR(check_header(header, pool, source.size(), name));

  std::vector<int32_t> token_ids(static_cast<size_t>(header.num_token_ids));
  SectionReader ids(source, kTokenIds, header.num_token_ids * 4, name + ": token ids");
  CACHALOT_RETURN_IF_ERROR(ids.read(std::as_writable_bytes(std::span(token_ids))));
  CACHALOT_RETURN_IF_ERROR(ids.finish());
  if (prompt.has_value())
    CACHALOT_RETURN_IF_ERROR(check_prompt(token_ids, header.num_tokens, *prompt, name));

  CACHALOT_ASSIGN_OR_RETURN(SequenceCache cache, create(pool));
  if (Status room = cache.reserve(header.num_tokens); !room.ok())
    return Status(room.code(), name + ": " + room.message());
  const auto views_of = [&](int64_t layer) { return cache.make_views(layer); };
  std::vector<std::byte> for_gpu;
  const auto read_from = [&](SectionReader& section) {
    return [&](std::byte* data, int64_t n) -> Status {
      if (pool.gpu() == nullptr) return section.read({data, static_cast<size_t>(n)});
      for_gpu.resize(static_cast<size_t>(n));
      CACHALOT_RETURN_IF_ERROR(section.read(for_gpu));
      pool.gpu()->copy(data, for_gpu.data(), n);
      return {};
    };
  };
  SectionReader state(source, kState, header.state_bytes, name + ": state");
  CACHALOT_RETURN_IF_ERROR(for_each_live_state_piece(pool.layout(), header.num_tokens,
                                                     header.ring_end, views_of, read_from(state)));
  CACHALOT_RETURN_IF_ERROR(state.finish());
  SectionReader rows(source, kRows, header.rows_bytes, name + ": rows");
  CACHALOT_RETURN_IF_ERROR(
      for_each_live_row_piece(pool.layout(), header.num_tokens, views_of, read_from(rows)));
  CACHALOT_RETURN_IF_ERROR(rows.finish());
  cache.num_tokens_ = header.num_tokens;
  cache.ring_end_ = header.ring_end;
  return RestoredSequence{std::move(cache), std::move(token_ids)};
}

}  // namespace cachalot::cache
