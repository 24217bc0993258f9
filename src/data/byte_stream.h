// The bytes of a file from first to last, decompressed where they are gzip or zstd, whatever the
// file's name. A name in .gz or .zst does not make text compressed: some downloaders unpack and
// keep the name.
// Memory   Bounded whatever the file: a decompressor's window (gzip 32 KiB, zstd what the frame
//          says, at most 2 GiB: `zstd --long=31`) and the caller's buffer. The file itself is
//          mapped.
// Errors   A truncated or corrupt file is data_loss, naming path and offset in the file as it lies
//          on disk; no memory for the window is resource_exhausted. Members and frames that follow
//          each other are one stream, with or without zeros behind a gzip member, as writers of
//          whole blocks leave them; anything else behind the last is an error.
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
