// A place in the stream of training packs: all that a checkpoint must keep to go on with the same
// data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::data {

// How far a source is used up.
struct SourceCursor {
  int64_t epoch = 0;
  int64_t document = 0;  // next place in the epoch's order
  int64_t tokens = 0;    // drawn since the stage began, in all epochs
  bool operator==(const SourceCursor&) const = default;
};

struct LoaderCursor {
  uint64_t fingerprint = 0;  // of the loader that made it
  int64_t step = 0;
  int64_t window = 0;
  int64_t pack = 0;                   // next in the window
  std::vector<SourceCursor> sources;  // where the window began
  std::vector<uint64_t> datasets;     // their fingerprints; empty: not known
  bool operator==(const LoaderCursor&) const = default;
};

// {"fingerprint": "16 hex digits", "step": 3, "window": 0, "pack": 24, "sources": [{"epoch": 0,
// "document": 0, "tokens": 0}], "datasets": ["16 hex digits"]}
std::string to_json(const LoaderCursor& cursor);
// `origin` names the text in errors. Checks form and ranges; DataLoader::check_cursor compares it
// with a loader.
Result<LoaderCursor> cursor_from_json(std::string_view text, std::string_view origin);

}  // namespace cachalot::data
