#include "data/byte_stream.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/file.h"

namespace cachalot::data {
namespace {

// The compressed bytes, and the file that they lie in where it is the stream's own.
struct Source {
  std::optional<MappedFile> file;
  std::span<const std::byte> bytes;
  std::string name;
};

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(Source source) : source_(std::move(source)) {}

  Result<size_t> read(std::span<char> out) override {
    const size_t count = std::min(out.size(), source_.bytes.size() - offset_);
    if (count > 0) std::memcpy(out.data(), source_.bytes.data() + offset_, count);
    offset_ += count;
    return count;
  }

 private:
  Source source_;
  size_t offset_ = 0;
};

Status truncated(const Source& source, std::string_view unit) {
  return data_loss(fmt::format("{}: byte {}: expected more of a {}, found the end of the file",
                               source.name, source.bytes.size(), unit));
}

class GzipStream final : public ByteStream {
 public:
  explicit GzipStream(Source source) : source_(std::move(source)) {
    constexpr int kGzipOnly = 16;  // zlib's flag: a gzip header, whose CRC and length it checks
    CACHALOT_CHECK(inflateInit2(&zlib_, MAX_WBITS + kGzipOnly) == Z_OK);
  }
  ~GzipStream() override { inflateEnd(&zlib_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  Result<size_t> read(std::span<char> out) override {
    size_t written = 0;
    while (written < out.size()) {
      if (between_members_) skip_padding();
      const auto input = source_.bytes.subspan(offset_);
      if (input.empty() && between_members_) break;
      // zlib counts in 32 bits. Its input is never written to; the cast is its interface of old.
      zlib_.avail_in = limited(input.size());
      zlib_.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(input.data()));
      zlib_.avail_out = limited(out.size() - written);
      zlib_.next_out = reinterpret_cast<Bytef*>(out.data() + written);
      const uInt room = zlib_.avail_out, given = zlib_.avail_in;
      const int code = inflate(&zlib_, Z_NO_FLUSH);
      offset_ += given - zlib_.avail_in;
      written += room - zlib_.avail_out;
      between_members_ = code == Z_STREAM_END;
      if (code == Z_STREAM_END) {
        CACHALOT_CHECK(inflateReset(&zlib_) == Z_OK);
      } else if (code == Z_BUF_ERROR) {
        return truncated(source_, "gzip member");
      } else if (code == Z_MEM_ERROR) {
        return resource_exhausted(source_.name + ": no memory to decompress it");
      } else if (code != Z_OK) {
        return data_loss(fmt::format("{}: byte {}: expected gzip data, found: {}", source_.name,
                                     offset_, zlib_.msg != nullptr ? zlib_.msg : "other bytes"));
      }
    }
    return written;
  }

 private:
  void skip_padding() {
    while (offset_ < source_.bytes.size() && source_.bytes[offset_] == std::byte{0}) ++offset_;
  }
  static uInt limited(size_t size) {
    return static_cast<uInt>(std::min<size_t>(size, std::numeric_limits<uInt>::max()));
  }
  Source source_;
  size_t offset_ = 0;
  z_stream zlib_ = {};
  bool between_members_ = false;  // a file without any member is truncated
};

constexpr int kMaxWindowLog = 31;  // what the format's own tool writes with --long=31

class ZstdStream final : public ByteStream {
 public:
  explicit ZstdStream(Source source) : source_(std::move(source)), context_(ZSTD_createDCtx()) {
    CACHALOT_CHECK(context_ != nullptr);
    CACHALOT_CHECK(
        !ZSTD_isError(ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, kMaxWindowLog)));
  }

  Result<size_t> read(std::span<char> out) override {
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    ZSTD_inBuffer input = {source_.bytes.data(), source_.bytes.size(), offset_};
    while (output.pos < output.size) {
      const bool at_end = input.pos == input.size;
      if (at_end && between_frames_) break;
      const size_t before = output.pos;
      const size_t hint = ZSTD_decompressStream(context_.get(), &output, &input);
      offset_ = input.pos;
      if (ZSTD_isError(hint)) {
        if (ZSTD_getErrorCode(hint) == ZSTD_error_memory_allocation) {
          return resource_exhausted(source_.name + ": no memory for the window of its zstd frame");
        }
        return data_loss(fmt::format("{}: byte {}: expected zstd data, found: {}", source_.name,
                                     offset_, ZSTD_getErrorName(hint)));
      }
      between_frames_ = hint == 0;
      // What the decompressor still held may come out after the input's end.
      if (at_end && !between_frames_ && output.pos == before) {
        return truncated(source_, "zstd frame");
      }
    }
    return output.pos;
  }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  Source source_;
  size_t offset_ = 0;
  std::unique_ptr<ZSTD_DCtx, Free> context_;
  bool between_frames_ = false;
};

bool begins_with(std::span<const std::byte> bytes, std::initializer_list<int> magic) {
  return bytes.size() >= magic.size() &&
         std::equal(magic.begin(), magic.end(), bytes.begin(),
                    [](int a, std::byte b) { return std::byte(a) == b; });
}

bool is_zstd(std::span<const std::byte> bytes) {
  if (begins_with(bytes, {0x28, 0xB5, 0x2F, 0xFD})) return true;
  // A skippable frame: any of sixteen first bytes.
  return bytes.size() >= 4 && (bytes[0] & std::byte{0xF0}) == std::byte{0x50} &&
         begins_with(bytes.subspan(1), {0x2A, 0x4D, 0x18});
}

// Long enough to show a magic number, and free of the control characters that compressed bytes
// soon hold.
bool is_text(std::span<const std::byte> bytes) {
  constexpr size_t kMagicBytes = 4, kLookedAt = 4096;
  if (bytes.size() < kMagicBytes) return false;
  const auto head = bytes.first(std::min(bytes.size(), kLookedAt));
  return std::none_of(head.begin(), head.end(), [](std::byte b) {
    return b < std::byte{' '} && b != std::byte{'\t'} && b != std::byte{'\n'} &&
           b != std::byte{'\r'} && b != std::byte{'\f'};
  });
}

std::unique_ptr<ByteStream> stream_of(Source source) {
  const auto is_named = [&](std::initializer_list<std::string_view> endings) {
    return std::any_of(endings.begin(), endings.end(),
                       [&](std::string_view ending) { return source.name.ends_with(ending); });
  };
  const bool has_gzip_magic = begins_with(source.bytes, {0x1F, 0x8B});
  // What has no magic number and is no text is damaged: its name says how to report it.
  const bool is_damaged = !has_gzip_magic && !is_zstd(source.bytes) && !is_text(source.bytes);
  if (has_gzip_magic || (is_damaged && is_named({".gz", ".dz"})))
    return std::make_unique<GzipStream>(std::move(source));
  if (is_zstd(source.bytes) || (is_damaged && is_named({".zst", ".zstd"})))
    return std::make_unique<ZstdStream>(std::move(source));
  return std::make_unique<PlainStream>(std::move(source));
}
}  // namespace

Result<std::unique_ptr<ByteStream>> ByteStream::open(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file.bytes();  // stays where it is when the file moves
  return stream_of({.file = std::move(file), .bytes = bytes, .name = path});
}

std::unique_ptr<ByteStream> ByteStream::from_bytes(std::span<const std::byte> bytes,
                                                   const std::string& name) {
  return stream_of({.file = std::nullopt, .bytes = bytes, .name = name});
}

}  // namespace cachalot::data
