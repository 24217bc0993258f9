// Packed weights that are kept between starts: one file for each checkpoint, in a bounded folder.
//
// A file is made of its checkpoint as it was: path, size, times and header of every file, the
// configuration, and the layout that the backend packs into. The content itself is hashed once,
// when it is packed; a start compares the rest. Instruction set and precision do not count: the
// packed bytes do not depend on them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/bounded_directory.h"
#include "formats/weight_source.h"
#include "model/packed_store.h"

namespace cachalot::engine {

struct WeightCacheOptions {
  std::string directory;                  // empty: no files
  int64_t max_bytes = 0;                  // of all files together
  int64_t min_bytes = int64_t{64} << 20;  // of a model: a smaller one is packed as fast as mapped

  static WeightCacheOptions from_environment();
};

class WeightCache {
 public:
  // `source` as it is about to be loaded; its config says how many MTP blocks.
  WeightCache(const WeightCacheOptions& options, const formats::WeightSource& source,
              const formats::ModelConfig& config);

  // The kept file, if it is of this checkpoint; one that is not, or is torn, is named in the log.
  std::optional<model::PackedFile> find() const;
  // Keeps what the store packed. Where that cannot be done (a full or read-only disk, a model above
  // the limit), one line of warning; where the checkpoint has changed meanwhile, or another process
  // is writing, nothing.
  void keep(const model::PackedStore& store) const;

 private:
  std::string identity() const;

  BoundedDirectory directory_;
  std::vector<std::pair<std::string, uint64_t>> files_;  // path, hash of the header
  std::string config_;
  std::string identity_;  // empty: not kept
  std::string name_;
  int64_t min_bytes_;
};

}  // namespace cachalot::engine
