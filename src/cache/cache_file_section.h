// A section of a cache file, written or read in one pass: its bytes, then their XXH3-64 as eight
// little-endian bytes.
// Layout  docs/formats/cache_file.md.
#pragma once

#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "cache/byte_source.h"

namespace cachalot::cache {

struct XxhDelete {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};
using XxhState = std::unique_ptr<XXH3_state_t, XxhDelete>;

// seed: the section's number, so that sections cannot stand in for each other.
class SectionWriter {
 public:
  SectionWriter(Sink& sink, uint64_t seed);
  Status write(std::span<const std::byte> bytes);
  Status finish();  // the rest of the buffer and the checksum

 private:
  Status flush();

  Sink& sink_;
  XxhState hash_;
  std::vector<std::byte> buffer_;
};

class SectionReader {
 public:
  // num_bytes: of the section without its checksum. name: for messages, as in "x.cache: rows".
  SectionReader(ByteSource& source, uint64_t seed, int64_t num_bytes, std::string name);
  Status read(std::span<std::byte> bytes);
  Status finish();  // CHECK: all has been read. data_loss where the checksum differs.

 private:
  Status fill();

  ByteSource& source_;
  XxhState hash_;
  std::string name_;
  int64_t num_unfetched_;          // bytes of the section that are still in the source
  std::vector<std::byte> buffer_;  // fetched; those from begin_ on are unread
  size_t begin_ = 0;
};

}  // namespace cachalot::cache
