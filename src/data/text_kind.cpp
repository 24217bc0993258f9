#include "data/text_kind.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "data/extract/clean_text.h"
#include "data/json_scan.h"

namespace cachalot::data {
namespace {

using Format = DocumentOptions::Format;
using std::string_view_literals::operator""sv;

constexpr std::string_view kSpace = " \t\r\n";

struct Magic {
  std::string_view bytes;
  std::string_view name;
};
constexpr std::array kMagics = {
    Magic{"\xFF\xFE"sv, "UTF-16 text"},
    Magic{"\xFE\xFF"sv, "UTF-16 text"},
    Magic{"\xFD"
          "7zXZ\0"sv,
          "xz data"},
    Magic{"PK\3\4"sv, "a zip archive"},
    Magic{"7z\xBC\xAF\x27\x1C"sv, "a 7z archive"},
    Magic{"\4\"M\x18"sv, "lz4 data"},
    Magic{"PAR1"sv, "a Parquet file"},
    Magic{"ARROW1"sv, "an Arrow file"},
    Magic{"%PDF-"sv, "a PDF file"},
    Magic{"\x1F\x8B"sv, "gzip data"},
    Magic{"\x28\xB5\x2F\xFD"sv, "zstd data"},
    Magic{"\x89HDF\r\n"sv, "an HDF5 file"},
    Magic{"\x93NUMPY"sv, "a NumPy array"},
};

std::string lower_case(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

bool promises_json(std::string_view path) {
  const std::string name = lower_case(path);
  std::string_view stem = name;
  for (const std::string_view ending : {".gz", ".dz", ".zst", ".zstd"}) {
    if (stem.ends_with(ending)) stem.remove_suffix(ending.size());
  }
  return stem.ends_with(".json") || stem.ends_with(".jsonl") || stem.ends_with(".ndjson");
}

std::string_view without_space(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(kSpace), text.size()));
}

bool holds_line_break(std::string_view text) { return text.find('\n') != std::string_view::npos; }

// What objects at the start of `text` make it, or nothing where none begins there.
std::optional<Format> format_of_objects(std::string_view text, bool whole) {
  const JsonScan first = scan_json_object(text, {});
  if (first.outcome == JsonScan::Outcome::malformed) return std::nullopt;
  if (first.outcome == JsonScan::Outcome::cut) {
    if (whole) return std::nullopt;
    return holds_line_break(text) ? Format::json : Format::jsonl;
  }
  if (holds_line_break(text.substr(0, first.end))) return Format::json;
  const std::string_view rest = text.substr(first.end);
  const std::string_view next = without_space(rest);
  if (next.empty() || holds_line_break(rest.substr(0, rest.size() - next.size())))
    return Format::jsonl;
  return next.front() == '{' ? std::optional(Format::json) : std::nullopt;
}

}  // namespace

std::optional<std::string_view> not_text(std::string_view head) {
  for (const Magic& magic : kMagics) {
    if (head.starts_with(magic.bytes)) return magic.name;
  }
  if (head.starts_with("BZh") && head.size() > 4 && head.substr(4).starts_with("1AY&SY"))
    return "bzip2 data";  // a digit stands between
  constexpr size_t kTarMagicAt = 257;
  if (head.size() > kTarMagicAt && head.substr(kTarMagicAt).starts_with("ustar"))
    return "a tar archive";
  if (looks_binary(head)) return "binary data (a NUL among its first bytes)";
  return std::nullopt;
}

Format text_format(std::string_view head, bool whole, std::string_view path) {
  const std::string_view text = without_space(head);
  std::optional<Format> format;
  if (text.starts_with('{')) {
    format = format_of_objects(text, whole);
  } else if (text.starts_with('[')) {
    // Prose and logs begin so too: an array counts where an object stands first in it.
    const std::string_view first = without_space(text.substr(1));
    if (first.starts_with('{') &&
        scan_json_object(first, {}).outcome != JsonScan::Outcome::malformed)
      format = Format::json;
  }
  return format.value_or(promises_json(path) ? Format::jsonl : Format::text);
}

}  // namespace cachalot::data
