#include "rollout/trainer_client.h"

#include <fmt/format.h>

#include <cstring>

#include "base/file.h"
#include "base/sha256.h"
#include "formats/json_fields.h"

namespace cachalot::rollout {
namespace {

// What a trainer says of a call that it refuses.
Status refusal(const std::string& name, const HttpReply& reply) {
  std::string message = fmt::format("status {}", reply.status);
  const Result<json::value> value = parse_json(reply.body, name);
  if (value && value->is_object()) {
    const json::value* error = value->get_object().if_contains("error");
    if (error != nullptr && error->is_string()) message = std::string_view(error->get_string());
  }
  message = fmt::format("{}: {}", name, message);
  switch (reply.status) {
    case 404: return not_found(std::move(message));
    case 410: return cancelled(std::move(message));
    case 500: return io_error(std::move(message));
    default: return invalid_argument(std::move(message));
  }
}

template <typename T>
Result<std::vector<T>> values_of(std::string_view bytes, std::string_view origin) {
  if (bytes.size() % sizeof(T) != 0) {
    return data_loss(fmt::format("{}: expected a multiple of {} bytes, found {}", origin, sizeof(T),
                                 bytes.size()));
  }
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// A worker's name as a value of a query.
std::string encoded(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool is_plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                          (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
    out += is_plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace

Result<std::string> TrainerClient::ask(std::string_view method, const std::string& target,
                                       std::string_view body) {
  is_away_ = true;
  CACHALOT_ASSIGN_OR_RETURN(HttpReply reply, http_.call(method, target, body));
  is_away_ = reply.status >= 500;
  if (reply.status == 200 || reply.status == 204) return std::move(reply.body);
  return refusal(name(), reply);
}

Result<std::optional<Offer>> TrainerClient::claim(std::string_view worker) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text,
                            ask("POST", fmt::format("/rollout/claim?worker={}", encoded(worker))));
  if (text.empty()) return std::optional<Offer>();
  CACHALOT_ASSIGN_OR_RETURN(Offer offer, parse_offer(text, name() + ": offer"));
  return std::optional(std::move(offer));
}

Result<post::RolloutPlan> TrainerClient::plan(const Offer& offer) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string bytes,
                            ask("GET", fmt::format("/rollout/plans/{}", offer.step)));
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<int64_t> words,
                            values_of<int64_t>(bytes, name() + ": plan"));
  CACHALOT_ASSIGN_OR_RETURN(post::RolloutPlan plan, post::plan_of_words(words));
  const uint64_t hash = post::plan_hash(plan);
  if (hash != offer.plan_hash) {
    return data_loss(fmt::format("{}: plan of step {}: expected {:016x}, found {:016x}", name(),
                                 offer.step, offer.plan_hash, hash));
  }
  if (plan.step != offer.step || plan.weights_version != offer.weights_version ||
      offer.group >= static_cast<int64_t>(plan.groups.size())) {
    return data_loss(fmt::format(
        "{}: expected step {} of weights {} with group {}, found step {} of {} with {} groups",
        name(), offer.step, offer.weights_version, offer.group, plan.step, plan.weights_version,
        plan.groups.size()));
  }
  return plan;
}

Result<std::string> TrainerClient::logged(int64_t lease) {
  return ask("GET", fmt::format("/rollout/leases/{}/frames", lease));
}

Status TrainerClient::send(std::string_view batch, int64_t drafted, int64_t accepted) {
  const Result<std::string> answer =
      ask("POST", fmt::format("/rollout/frames?drafted={}&accepted={}", drafted, accepted), batch);
  return answer ? Status() : answer.error();
}

Result<std::vector<int32_t>> TrainerClient::turn(int64_t lease, int64_t answer) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string bytes,
                            ask("POST", fmt::format("/rollout/leases/{}/turns/{}", lease, answer)));
  return values_of<int32_t>(bytes, name() + ": turn");
}

Status TrainerClient::give_back(int64_t lease) {
  const Result<std::string> answer = ask("DELETE", fmt::format("/rollout/leases/{}", lease));
  return answer ? Status() : answer.error();
}

Status TrainerClient::fetch_file(const Offer& offer, const std::string& directory,
                                 const std::string& file, const std::string& sha256) {
  const std::string path = fmt::format("{}/{}", directory, file);
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile out, AtomicFile::create(path));
  Sha256 hash;
  is_away_ = true;
  const auto take = [&](std::string_view piece) {
    const auto bytes = std::as_bytes(std::span(piece));
    hash.add(bytes);
    const Status status = out.write(bytes);
    is_away_ = status.ok();
    return status;
  };
  CACHALOT_ASSIGN_OR_RETURN(
      const HttpReply reply,
      http_.download(fmt::format("/rollout/weights/{}/{}", offer.weights_version, file), take));
  is_away_ = reply.status >= 500;
  if (reply.status != 200) return refusal(name(), reply);
  if (const std::string found = hash.hex(); found != sha256) {
    return data_loss(fmt::format("{}: weights {}: {}: expected SHA-256 {}, found {}", name(),
                                 offer.weights_version, file, sha256, found));
  }
  return out.commit();
}

Status TrainerClient::fetch_weights(const Offer& offer, const std::string& directory) {
  CACHALOT_RETURN_IF_ERROR(fetch_file(offer, directory, "manifest.json", offer.manifest_sha256));
  const std::string path = directory + "/manifest.json";
  CACHALOT_ASSIGN_OR_RETURN(const json::object manifest,
                            formats::read_json_object(path, size_t{16} << 20));
  formats::JsonFields fields(manifest, path);
  const json::object* files = fields.object("files");
  if (files == nullptr) fields.fail("files", "an object", "none");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  for (const auto& [key, value] : *files) {
    const std::string file(key);
    const json::value* sha256 =
        value.is_object() ? value.get_object().if_contains("sha256") : nullptr;
    if (sha256 == nullptr || !sha256->is_string() || file.find('/') != std::string::npos ||
        file.starts_with('.')) {
      return data_loss(fmt::format("{}: files: expected names with their SHA-256, found {}", path,
                                   formats::json_excerpt(json::value(file))));
    }
    CACHALOT_RETURN_IF_ERROR(fetch_file(offer, directory, file, std::string(sha256->get_string())));
  }
  return {};
}

}  // namespace cachalot::rollout
