#include "data/byte_stream.h"

#include <fmt/format.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/file.h"

namespace cachalot::data {
namespace {

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(MappedFile file) : file_(std::move(file)) {}

  Result<size_t> read(std::span<char> out) override {
    const size_t count = std::min(out.size(), file_.bytes().size() - offset_);
    if (count > 0) std::memcpy(out.data(), file_.bytes().data() + offset_, count);
    offset_ += count;
    return count;
  }

 private:
  MappedFile file_;
  size_t offset_ = 0;
};

Status truncated(const MappedFile& file, std::string_view unit) {
  return data_loss(fmt::format("{}: byte {}: expected more of a {}, found the end of the file",
                               file.path(), file.bytes().size(), unit));
}

class GzipStream final : public ByteStream {
 public:
  explicit GzipStream(MappedFile file) : file_(std::move(file)) {
    constexpr int kGzipOnly = 16;  // zlib's flag: a gzip header, whose CRC and length it checks
    CACHALOT_CHECK(inflateInit2(&zlib_, MAX_WBITS + kGzipOnly) == Z_OK);
  }
  ~GzipStream() override { inflateEnd(&zlib_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  Result<size_t> read(std::span<char> out) override {
    size_t written = 0;
    while (written < out.size()) {
      const auto input = file_.bytes().subspan(offset_);
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
        return truncated(file_, "gzip member");
      } else if (code == Z_MEM_ERROR) {
        return resource_exhausted(file_.path() + ": no memory to decompress it");
      } else if (code != Z_OK) {
        return data_loss(fmt::format("{}: byte {}: expected gzip data, found: {}", file_.path(),
                                     offset_, zlib_.msg != nullptr ? zlib_.msg : "other bytes"));
      }
    }
    return written;
  }

 private:
  static uInt limited(size_t size) {
    return static_cast<uInt>(std::min<size_t>(size, std::numeric_limits<uInt>::max()));
  }
  MappedFile file_;
  size_t offset_ = 0;
  z_stream zlib_ = {};
  bool between_members_ = false;  // a file without any member is truncated
};

class ZstdStream final : public ByteStream {
 public:
  explicit ZstdStream(MappedFile file) : file_(std::move(file)), context_(ZSTD_createDCtx()) {
    CACHALOT_CHECK(context_ != nullptr);
  }

  Result<size_t> read(std::span<char> out) override {
    ZSTD_outBuffer output = {out.data(), out.size(), 0};
    ZSTD_inBuffer input = {file_.bytes().data(), file_.bytes().size(), offset_};
    while (output.pos < output.size) {
      const bool at_end = input.pos == input.size;
      if (at_end && between_frames_) break;
      const size_t before = output.pos;
      const size_t hint = ZSTD_decompressStream(context_.get(), &output, &input);
      offset_ = input.pos;
      if (ZSTD_isError(hint)) {
        return data_loss(fmt::format("{}: byte {}: expected zstd data, found: {}", file_.path(),
                                     offset_, ZSTD_getErrorName(hint)));
      }
      between_frames_ = hint == 0;
      // What the decompressor still held may come out after the input's end.
      if (at_end && !between_frames_ && output.pos == before) {
        return truncated(file_, "zstd frame");
      }
    }
    return output.pos;
  }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  MappedFile file_;
  size_t offset_ = 0;
  std::unique_ptr<ZSTD_DCtx, Free> context_;
  bool between_frames_ = false;
};
}  // namespace

Result<std::unique_ptr<ByteStream>> ByteStream::open(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  std::unique_ptr<ByteStream> stream;
  if (path.ends_with(".gz") || path.ends_with(".dz")) {
    stream = std::make_unique<GzipStream>(std::move(file));
  } else if (path.ends_with(".zst")) {
    stream = std::make_unique<ZstdStream>(std::move(file));
  } else {
    stream = std::make_unique<PlainStream>(std::move(file));
  }
  return stream;
}

}  // namespace cachalot::data
