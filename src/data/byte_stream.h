// The bytes of a file from first to last, decompressed where its name ends in .gz or .zst.
// Memory   Bounded whatever the file: a decompressor's window (gzip 32 KiB, zstd at most 128 MiB)
//          and the caller's buffer. The file itself is mapped.
// Errors   A truncated or corrupt file is data_loss, naming path and offset in the file as it lies
//          on disk. Members and frames that follow each other are one stream; anything else behind
//          the last is an error.
// Threads  One owner.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace cachalot::data {

class ByteStream {
 public:
  static Result<std::unique_ptr<ByteStream>> open(const std::string& path);
  // The same over bytes that outlive the stream; `name` stands for the path. Any bytes are safe to
  // give.
  static std::unique_ptr<ByteStream> from_bytes(std::span<const std::byte> bytes,
                                                const std::string& name);
  virtual ~ByteStream() = default;

  // Fills `out`; fewer bytes only at the end of the stream. After an error the stream is spent.
  virtual Result<size_t> read(std::span<char> out) = 0;
};

}  // namespace cachalot::data
