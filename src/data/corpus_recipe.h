// What a corpus is made of: the recipes and the lock file of `cachalot data build`, which together
// fix every byte of it.
// Files    configs/corpus.json (recipes, written by hand), configs/corpus.lock.json
//          (tools/lock_corpus). docs/formats/corpus.md.
// Errors   invalid_argument naming file, key, expected and found.
// Threads  pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"

namespace cachalot::data {

enum class ExtractKind { text, html, roff, dict, sword, pdf };

// Files of one package that a recipe takes.
struct RecipePart {
  std::string package;
  ExtractKind kind = ExtractKind::text;
  // Path of a tar archive in the package, whose files are then meant; empty: the package's own.
  std::string tar;
  // patterns as in a shell, over paths in the package; '*' matches '/' too
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  int64_t max_bytes = 0;  // of text; 0: all. Files are taken in the order of a hash of their paths
  bool held_out = false;  // the whole package: out-of-domain evaluation
};

struct LockedPackage {
  std::string version;
  std::string architecture;
  std::string sha256;
  std::string licence;
  bool permissive = false;
};

struct CorpusRecipe {
  std::string name;
  std::vector<RecipePart> parts;
  std::map<std::string, LockedPackage> packages;  // of the parts, locked
};

Result<CorpusRecipe> read_recipe(const std::string& recipes_path, const std::string& lock_path,
                                 const std::string& name);

}  // namespace cachalot::data
