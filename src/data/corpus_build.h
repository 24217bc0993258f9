// Builds a corpus from Debian packages: the same lock file gives the same bytes.
// Source   data-sources.md 6.
// Packages  fetched with apt-get download into a cache, compared with their SHA-256, unpacked with
//           dpkg-deb; nothing is installed.
// Output   DIR/train-NNNNN.jsonl.zst (about 64 MB of text each), DIR/heldout.jsonl.zst (one file in
//          a hundred, by a hash of its path), DIR/outofdomain-PACKAGE.jsonl.zst (packages held
//          out), DIR/manifest.json. A line: {"text", "package", "version", "path", "piece",
//          "licence", "xxh3"}. Files over 32 KB become several lines, unless held out.
//          docs/formats/corpus.md.
// Left out  files under 200 bytes, binary files, changelogs, texts that stand there already, lines
//           of 8 or more HTML files of a package.
// Errors   not_found: a program or a package's version that is not to be had, a pattern that takes
//          no file of its package; data_loss: another SHA-256 (expected, found); io_error.
#pragma once

#include <functional>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"
#include "data/corpus_recipe.h"

namespace cachalot::data {

struct CorpusBuildOptions {
  std::string out;
  std::string cache;
  bool permissive_only = false;
  std::function<void(const std::string& line)> progress;  // may be empty
};

struct CorpusBuildSummary {
  int64_t num_documents = 0;
  int64_t text_bytes = 0;
  int64_t held_out_bytes = 0;
};

Result<CorpusBuildSummary> build_corpus(const CorpusRecipe& recipe,
                                        const CorpusBuildOptions& options, ThreadPool& threads);

}  // namespace cachalot::data
