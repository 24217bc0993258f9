#include "data/loader_cursor.h"

#include <fmt/format.h>

#include <boost/json/serialize.hpp>

#include "base/json.h"
#include "data/hex64.h"
#include "formats/json_fields.h"

namespace cachalot::data {
namespace {
// No run gets near it, and sums of two stay inside int64_t.
constexpr int64_t kMaxCount = int64_t{1} << 60;
constexpr size_t kMaxDatasets = size_t{1} << 20;
}  // namespace

std::string to_json(const LoaderCursor& cursor) {
  json::array sources;
  for (const SourceCursor& source : cursor.sources) {
    sources.push_back(json::object{
        {"epoch", source.epoch}, {"document", source.document}, {"tokens", source.tokens}});
  }
  json::array datasets;
  for (const uint64_t fingerprint : cursor.datasets) datasets.emplace_back(to_hex64(fingerprint));
  return json::serialize(json::object{{"fingerprint", to_hex64(cursor.fingerprint)},
                                      {"step", cursor.step},
                                      {"window", cursor.window},
                                      {"pack", cursor.pack},
                                      {"sources", std::move(sources)},
                                      {"datasets", std::move(datasets)}});
}

Result<LoaderCursor> cursor_from_json(std::string_view text, std::string_view origin) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(text, origin));
  if (!value.is_object()) {
    return invalid_argument(
        fmt::format("{}: expected an object, found {}", origin, json_kind_name(value)));
  }
  LoaderCursor cursor;
  formats::JsonFields fields(value.get_object(), origin);
  std::string fingerprint;
  fields.text("fingerprint", &fingerprint);
  fields.integer("step", &cursor.step, 0, kMaxCount, true);
  fields.integer("window", &cursor.window, 0, kMaxCount, true);
  fields.integer("pack", &cursor.pack, 0, kMaxCount, true);
  const auto parsed = parse_hex64(fingerprint);
  if (!parsed) fields.fail("fingerprint", "16 hexadecimal digits", fingerprint);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  cursor.fingerprint = *parsed;

  const json::value* sources = fields.find("sources");
  if (sources == nullptr || !sources->is_array()) {
    fields.fail("sources", "an array", sources == nullptr ? "nothing" : json_kind_name(*sources));
    return fields.status();
  }
  for (const json::value& entry : sources->get_array()) {
    if (!entry.is_object()) {
      fields.fail("sources", "an array of objects", json_kind_name(entry));
      return fields.status();
    }
    SourceCursor source;
    formats::JsonFields entries(entry.get_object(), origin, "sources[].");
    entries.integer("epoch", &source.epoch, 0, kMaxCount, true);
    entries.integer("document", &source.document, 0, kMaxCount, true);
    entries.integer("tokens", &source.tokens, 0, kMaxCount, true);
    CACHALOT_RETURN_IF_ERROR(entries.status());
    cursor.sources.push_back(source);
  }
  std::vector<std::string> datasets;
  fields.texts("datasets", &datasets, kMaxDatasets);
  for (const std::string& text : datasets) {
    const auto dataset = parse_hex64(text);
    if (!dataset) fields.fail("datasets", "16 hexadecimal digits each", text.substr(0, 40));
    cursor.datasets.push_back(dataset.value_or(0));
  }
  CACHALOT_RETURN_IF_ERROR(fields.status());
  return cursor;
}

}  // namespace cachalot::data
