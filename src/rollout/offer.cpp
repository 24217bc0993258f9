#include "rollout/offer.h"

#include <fmt/format.h>

#include <boost/json/serialize.hpp>
#include <charconv>

#include "formats/json_fields.h"

namespace cachalot::rollout {
namespace {

constexpr int64_t kMany = int64_t{1} << 60;

}  // namespace

std::string offer_json(const Offer& offer) {
  const json::object out = {{"lease", offer.lease},
                            {"step", offer.step},
                            {"group", offer.group},
                            {"plan_hash", fmt::format("{:016x}", offer.plan_hash)},
                            {"weights_version", offer.weights_version},
                            {"manifest_sha256", offer.manifest_sha256},
                            {"precision", offer.precision},
                            {"qat", offer.qat},
                            {"asks_turns", offer.asks_turns}};
  return boost::json::serialize(out);
}

Result<Offer> parse_offer(std::string_view text, std::string_view origin) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(text, origin));
  if (!value.is_object())
    return invalid_argument(
        fmt::format("{}: expected an object, found {}", origin, json_kind_name(value)));
  formats::JsonFields fields(value.get_object(), origin);
  Offer offer;
  std::string hash;
  fields.integer("lease", &offer.lease, 0, kMany, true);
  fields.integer("step", &offer.step, 0, kMany, true);
  fields.integer("group", &offer.group, 0, kMany, true);
  fields.text("plan_hash", &hash);
  fields.integer("weights_version", &offer.weights_version, 0, kMany, true);
  fields.text("manifest_sha256", &offer.manifest_sha256);
  fields.text("precision", &offer.precision);
  fields.boolean("qat", &offer.qat);
  fields.boolean("asks_turns", &offer.asks_turns);
  const auto [end, error] =
      std::from_chars(hash.data(), hash.data() + hash.size(), offer.plan_hash, 16);
  if (error != std::errc() || end != hash.data() + hash.size())
    fields.fail("plan_hash", "a number of base 16", fmt::format("\"{}\"", hash));
  CACHALOT_RETURN_IF_ERROR(fields.status());
  return offer;
}

}  // namespace cachalot::rollout
