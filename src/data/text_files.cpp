#include "data/text_files.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <unordered_set>

#include "data/byte_stream.h"
#include "data/text_kind.h"

namespace cachalot::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPeekBytes = 4096;
constexpr std::string_view kWildcards = "*?[";

bool is_hidden(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.size() > 1 && name.front() == '.' && name != "..";
}

bool is_corpus_file(const fs::path& path) {
  if (path.extension() == ".tokens") return true;
  std::error_code error;
  const fs::path first_shard = path.parent_path() / (path.stem().string() + "-00000.tokens");
  return path.extension() == ".json" && fs::exists(first_shard, error);
}

// Every file below the folder that may be text, sorted.
Result<std::vector<std::string>> files_below(const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  std::error_code ignored;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const bool passed_over = is_hidden(it->path()) || fs::exists(it->path() / "run.toml", ignored);
    if (it->is_directory(ignored)) {
      if (passed_over) it.disable_recursion_pending();
    } else if (!passed_over && it->is_regular_file(ignored) && !is_corpus_file(it->path())) {
      files.push_back(it->path().string());
    }
  }
  if (error) return io_error(fmt::format("{}: list: {}", folder.string(), error.message()));
  std::sort(files.begin(), files.end());
  return files;
}

enum class Content { text, no_text, json };

Result<Content> content_of(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<ByteStream> stream, ByteStream::open(path));
  std::string bytes(kPeekBytes, '\0');
  CACHALOT_ASSIGN_OR_RETURN(const size_t count, stream->read(bytes));
  const std::string_view head = std::string_view(bytes).substr(0, count);
  if (head.empty() || not_text(head)) return Content::no_text;
  const bool is_text = text_format(head, count < kPeekBytes, path) == DocumentOptions::Format::text;
  return is_text ? Content::text : Content::json;
}

// Why the file's first document has no text; empty where it has one.
Result<std::string> fault_of_json(const std::string& path, const DocumentOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(DocumentReader reader, DocumentReader::open(path, options));
  std::string document;
  const Result<bool> first = reader.next(&document);
  if (first)
    return *first ? std::string() : fmt::format("{}: expected documents, found none", path);
  if (first.error().code() != StatusCode::invalid_argument) return first.error();
  return first.error().message();
}

// Whether a folder's file is taken; counted and told in `out` where it is not.
Result<bool> takes(const std::string& path, const DocumentOptions& options, TextFiles& out) {
  CACHALOT_ASSIGN_OR_RETURN(const Content content, content_of(path));
  std::string fault;
  if (content == Content::json && options.format == DocumentOptions::Format::by_content &&
      !options.skip_bad_lines) {
    CACHALOT_ASSIGN_OR_RETURN(fault, fault_of_json(path, options));
  }
  if (content != Content::no_text && fault.empty()) return true;
  ++out.num_passed_over;
  if (!fault.empty() && out.reasons.size() < TextFiles::kMaxReasons)
    out.reasons.push_back(std::move(fault));
  return false;
}

// "texts" of "texts/*/a.md"; "." where the first name is a pattern.
fs::path folder_before_wildcard(const std::string& pattern) {
  const size_t slash = pattern.rfind('/', pattern.find_first_of(kWildcards));
  if (slash == std::string::npos) return ".";
  return pattern.substr(0, std::max<size_t>(slash, 1));
}

Result<std::vector<std::string>> files_of_pattern(std::string pattern) {
  CACHALOT_ASSIGN_OR_RETURN(std::vector<std::string> files,
                            files_below(folder_before_wildcard(pattern)));
  int flags = FNM_PATHNAME | FNM_LEADING_DIR;
  for (size_t at = pattern.find("**/"); at != std::string::npos; at = pattern.find("**/")) {
    pattern.erase(at + 1, 2);
    flags = 0;
  }
  std::erase_if(files, [&](std::string& file) {
    if (file.starts_with("./") && !pattern.starts_with("./")) file.erase(0, 2);
    return ::fnmatch(pattern.c_str(), file.c_str(), flags) != 0;
  });
  return files;
}

}  // namespace

Result<TextFiles> find_text_files(std::span<const std::string> arguments,
                                  const DocumentOptions& options) {
  TextFiles out;
  std::unordered_set<std::string> seen;
  for (const std::string& argument : arguments) {
    std::error_code error;
    std::vector<std::string> found = {argument};
    const bool is_folder = fs::is_directory(argument, error);
    if (!is_folder && fs::exists(argument, error)) {
      if (seen.insert(argument).second) out.paths.push_back(argument);
      continue;
    }
    if (is_folder) {
      CACHALOT_ASSIGN_OR_RETURN(found, files_below(argument));
    } else if (argument.find_first_of(kWildcards) != std::string::npos &&
               fs::is_directory(folder_before_wildcard(argument), error)) {
      CACHALOT_ASSIGN_OR_RETURN(found, files_of_pattern(argument));
    } else {
      return not_found(
          fmt::format("{}: expected a file, a folder or a pattern, found nothing", argument));
    }
    const size_t num_files = found.size();
    size_t num_texts = 0;
    for (std::string& file : found) {
      CACHALOT_ASSIGN_OR_RETURN(const bool is_taken, takes(file, options, out));
      num_texts += is_taken ? 1 : 0;
      if (is_taken && seen.insert(file).second) out.paths.push_back(std::move(file));
    }
    if (num_texts == 0) {
      return not_found(fmt::format("{}: expected files of text, found {}{}{}", argument,
                                   num_files == 0 ? "none" : "only files that are no text",
                                   out.reasons.empty() ? "" : "; of JSON the first: ",
                                   out.reasons.empty() ? "" : out.reasons.front()));
    }
  }
  return out;
}

}  // namespace cachalot::data
