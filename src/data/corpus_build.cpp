#include "data/corpus_build.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <unordered_set>

#include "base/file.h"
#include "base/python_json.h"
#include "data/byte_stream.h"
#include "data/extract/clean_text.h"
#include "data/extract/html_text.h"
#include "data/extract/roff_text.h"
#include "data/extract/sword_text.h"
#include "data/hex64.h"
#include "data/jsonl_writer.h"
#include "data/package_cache.h"
#include "data/run_program.h"
#include "data/split_text.h"

namespace cachalot::data {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kShardBytes = int64_t{64} << 20;
constexpr size_t kMaxFileBytes = size_t{1} << 30;
constexpr size_t kLeastBytes = 200;
constexpr int kMenuFiles = 8;
constexpr uint64_t kHeldOutOf = 100;

uint64_t hash_of(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

struct Document {
  std::string path;  // in the package
  std::string text;
};

bool matches(const std::string& pattern, const std::string& path) {
  return ::fnmatch(pattern.c_str(), path.c_str(), 0) == 0;
}
bool matches(const std::vector<std::string>& patterns, const std::string& path) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return matches(pattern, path); });
}

bool is_changelog(const std::string& path) {
  std::string name = fs::path(path).filename().string();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.starts_with("changelog") || name.starts_with("changes") || name.starts_with("news") ||
         name.starts_with("copyright");
}

Status expect_all_match(const RecipePart& part, const std::vector<std::string>& paths) {
  for (const std::string& pattern : part.include) {
    if (std::none_of(paths.begin(), paths.end(),
                     [&](const std::string& path) { return matches(pattern, path); }))
      return not_found(fmt::format("{}: include \"{}\": expected files to take, found none",
                                   part.package, pattern));
  }
  return {};
}

// Paths that the part takes, sorted. Each pattern takes some: one that does not is a slip, or the
// package is another than it was.
Result<std::vector<std::string>> paths_of(const RecipePart& part, const std::string& root) {
  std::vector<std::string> paths;
  std::error_code error;
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_symlink(error) || !it->is_regular_file(error)) continue;
    const std::string path = fs::relative(it->path(), root, error).string();
    if (matches(part.include, path) && !matches(part.exclude, path) && !is_changelog(path))
      paths.push_back(path);
  }
  if (error) return io_error(fmt::format("{}: list: {}", root, error.message()));
  CACHALOT_RETURN_IF_ERROR(expect_all_match(part, paths));
  std::sort(paths.begin(), paths.end());
  return paths;
}

Result<std::string> read_whole(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<ByteStream> stream, ByteStream::open(path));
  std::string bytes;
  std::vector<char> buffer(1 << 20);
  while (bytes.size() < kMaxFileBytes) {
    CACHALOT_ASSIGN_OR_RETURN(const size_t count, stream->read(buffer));
    if (count == 0) return bytes;
    bytes.append(buffer.data(), count);
  }
  return resource_exhausted(
      fmt::format("{}: expected less than {} bytes, found more", path, kMaxFileBytes));
}

Result<std::string> extract(const RecipePart& part, const std::string& root,
                            const std::string& path) {
  const std::string full = (fs::path(root) / path).string();
  if (part.kind == ExtractKind::pdf)
    return run_program(
        {.argv = {"pdftotext", "-enc", "UTF-8", full, "-"}, .debian_package = "poppler-utils"});
  CACHALOT_ASSIGN_OR_RETURN(const std::string bytes, read_whole(full));
  if (looks_binary(bytes)) return std::string();
  switch (part.kind) {
    case ExtractKind::html: return html_text(bytes);
    case ExtractKind::roff: return roff_text(bytes);
    default: return bytes;
  }
}

Result<std::vector<Document>> sword_documents(const RecipePart& part, const std::string& root) {
  std::vector<Document> documents;
  const std::string module = part.include[0];
  CACHALOT_ASSIGN_OR_RETURN(
      const std::string imp,
      run_program(
          {.argv = {"mod2imp", module},
           .debian_package = "libsword-utils",
           .environment = {"SWORD_PATH=" + (fs::path(root) / "usr/share/sword").string()}}));
  documents.push_back({"sword/" + module, clean_text(sword_text(imp))});
  return documents;
}

Result<std::vector<Document>> documents_of(const RecipePart& part, const std::string& root,
                                           ThreadPool& threads) {
  if (part.kind == ExtractKind::sword) return sword_documents(part, root);
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> paths, paths_of(part, root));
  const auto count = static_cast<int64_t>(paths.size());
  std::vector<std::string> texts(paths.size());
  std::vector<Status> failures(paths.size());
  threads.run(count, [&](int64_t i, int) {
    Result<std::string> text = extract(part, root, paths[i]);
    if (text) {
      texts[i] = *std::move(text);
    } else {
      failures[i] = text.error();
    }
  });
  for (const Status& failure : failures) CACHALOT_RETURN_IF_ERROR(failure);
  if (part.kind == ExtractKind::html) drop_repeated_lines(texts, kMenuFiles, '\x01');
  threads.run(count, [&](int64_t i, int) { texts[i] = clean_text(texts[i]); });
  std::vector<Document> documents;
  for (size_t i = 0; i < paths.size(); ++i)
    documents.push_back({utf8_of(paths[i]), std::move(texts[i])});
  return documents;
}

// The first documents in the order of their paths' hashes up to the cap, the last one cut at a
// line's end; then in their own order.
void apply_cap(std::vector<Document>& documents, int64_t max_bytes) {
  if (max_bytes == 0) return;
  std::sort(documents.begin(), documents.end(), [](const Document& a, const Document& b) {
    return std::pair(hash_of(a.path), a.path) < std::pair(hash_of(b.path), b.path);
  });
  auto left = static_cast<size_t>(max_bytes);
  size_t kept = 0;
  for (; kept < documents.size() && left > 0; ++kept) {
    std::string& text = documents[kept].text;
    if (text.size() > left) {
      const size_t line_end = text.rfind('\n', left);
      text.resize(line_end == std::string::npos ? 0 : line_end + 1);
      left = 0;
    } else {
      left -= text.size();
    }
  }
  documents.resize(kept);
  std::sort(documents.begin(), documents.end(),
            [](const Document& a, const Document& b) { return a.path < b.path; });
}

class Builder {
 public:
  Builder(const CorpusRecipe& recipe, const CorpusBuildOptions& options, ThreadPool& threads)
      : recipe_(recipe), options_(options), threads_(threads) {}

  Result<CorpusBuildSummary> build() {
    std::error_code error;
    fs::create_directories(options_.out, error);
    if (error) return io_error(fmt::format("{}: create: {}", options_.out, error.message()));
    for (const RecipePart& part : recipe_.parts) {
      const LockedPackage& package = recipe_.packages.at(part.package);
      if (options_.permissive_only && !package.permissive) continue;
      CACHALOT_RETURN_IF_ERROR(add(part, package));
    }
    for (auto& [name, writer] : writers_) CACHALOT_RETURN_IF_ERROR(writer.finish());
    CACHALOT_RETURN_IF_ERROR(write_manifest());
    return summary_;
  }

 private:
  Status add(const RecipePart& part, const LockedPackage& package) {
    CACHALOT_ASSIGN_OR_RETURN(std::string root,
                              unpacked_package(options_.cache, part.package, package));
    if (!part.tar.empty()) {
      CACHALOT_ASSIGN_OR_RETURN(root, unpacked_tar(root, part.tar));
    }
    CACHALOT_ASSIGN_OR_RETURN(std::vector<Document> documents, documents_of(part, root, threads_));
    if (part.kind == ExtractKind::html) {
      for (Document& document : documents) document.text = strip_pre_marks(document.text);
    }
    std::erase_if(documents, [&](const Document& document) {
      return document.text.size() < kLeastBytes || !seen_.insert(hash_of(document.text)).second;
    });
    apply_cap(documents, part.max_bytes);
    int64_t bytes = 0;
    for (const Document& document : documents) {
      bytes += static_cast<int64_t>(document.text.size());
      CACHALOT_RETURN_IF_ERROR(write(part, package, document));
    }
    json::object row = {{"package", part.package},   {"version", package.version},
                        {"sha256", package.sha256},  {"licence", package.licence},
                        {"held_out", part.held_out}, {"documents", documents.size()},
                        {"text_bytes", bytes}};
    parts_.push_back(std::move(row));
    if (options_.progress)
      options_.progress(fmt::format("{:<24}{:>8} documents {:>8.2f} MB", part.package,
                                    documents.size(), static_cast<double>(bytes) * 1e-6));
    return {};
  }

  Status write(const RecipePart& part, const LockedPackage& package, const Document& document) {
    const bool held_out =
        part.held_out || hash_of(part.package + "/" + document.path) % kHeldOutOf == kHeldOutOf - 1;
    CACHALOT_ASSIGN_OR_RETURN(JsonlWriter* const writer,
                              writer_of(part.held_out ? "outofdomain-" + part.package
                                        : held_out    ? "heldout"
                                                      : train_));
    // What is held out stays whole: its last tokens are evaluated with all that comes before.
    const std::vector<std::string_view> pieces =
        split_text(document.text, held_out ? kMaxFileBytes : static_cast<size_t>(kPieceBytes));
    for (size_t i = 0; i < pieces.size(); ++i) {
      CACHALOT_RETURN_IF_ERROR(
          writer->write(python_json(json::object{{"text", pieces[i]},
                                                 {"package", part.package},
                                                 {"version", package.version},
                                                 {"path", document.path},
                                                 {"piece", i},
                                                 {"licence", package.licence},
                                                 {"xxh3", to_hex64(hash_of(pieces[i]))}})));
    }
    const auto bytes = static_cast<int64_t>(document.text.size());
    summary_.num_documents += static_cast<int64_t>(pieces.size());
    (held_out ? summary_.held_out_bytes : summary_.text_bytes) += bytes;
    if (!held_out && (train_bytes_ += bytes) >= kShardBytes) {
      train_bytes_ = 0;
      train_ = fmt::format("train-{:05}", ++train_shards_);
    }
    return {};
  }

  Result<JsonlWriter*> writer_of(const std::string& name) {
    const auto found = writers_.find(name);
    if (found != writers_.end()) return &found->second;
    CACHALOT_ASSIGN_OR_RETURN(
        JsonlWriter writer,
        JsonlWriter::create((fs::path(options_.out) / (name + ".jsonl.zst")).string()));
    return &writers_.emplace(name, std::move(writer)).first->second;
  }

  Status write_manifest() {
    json::object files;
    for (const auto& [name, writer] : writers_) files[name + ".jsonl.zst"] = writer.text_bytes();
    const json::object manifest = {{"format", "cachalot-text-corpus"},
                                   {"version", 1},
                                   {"recipe", recipe_.name},
                                   {"documents", summary_.num_documents},
                                   {"text_bytes", summary_.text_bytes},
                                   {"held_out_bytes", summary_.held_out_bytes},
                                   {"parts", parts_},
                                   {"files", std::move(files)}};
    return write_file_atomically((fs::path(options_.out) / "manifest.json").string(),
                                 python_json(manifest) + "\n");
  }

  const CorpusRecipe& recipe_;
  const CorpusBuildOptions& options_;
  ThreadPool& threads_;
  std::map<std::string, JsonlWriter> writers_;  // by name
  std::unordered_set<uint64_t> seen_;           // texts
  json::array parts_;
  std::string train_ = "train-00000";
  int train_shards_ = 0;
  int64_t train_bytes_ = 0;
  CorpusBuildSummary summary_;
};

}  // namespace

Result<CorpusBuildSummary> build_corpus(const CorpusRecipe& recipe,
                                        const CorpusBuildOptions& options, ThreadPool& threads) {
  return Builder(recipe, options, threads).build();
}

}  // namespace cachalot::data
