// A served model for tests: the tokenizer of models/nano over a made-up model of a few thousand
// weights, and calls that run through its engine.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/router.h"
#include "base/json.h"
#include "base/test_data.h"
#include "engine/engine.h"
#include "model/random_weights.h"
#include "text/chat_literals.h"

namespace cachalot::api::testing {

inline constexpr std::string_view kTinyModel = R"({"model_type": "deepseek_v4", "vocab_size": 4096,
 "hidden_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "qk_rope_head_dim": 8, "q_lora_rank": 16, "o_groups": 2,
 "o_lora_rank": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
 "routed_scaling_factor": 1.5, "num_hash_layers": 0, "sliding_window": 8, "index_n_heads": 2,
 "index_head_dim": 16, "index_topk": 3, "hc_mult": 2, "hc_sinkhorn_iters": 4, "hc_eps": 1e-6,
 "swiglu_limit": 10.0, "rope_theta": 10000, "compress_rope_theta": 160000,
 "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
 "beta_fast": 32, "beta_slow": 1}, "compress_ratios": [0, 4, 0],
 "num_nextn_predict_layers": 1, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
 "torch_dtype": "float32"})";

inline const text::Tokenizer& nano_tokenizer() {
  static const text::Tokenizer kTokenizer =
      text::Tokenizer::load(test_data("../models/nano/tokenizer.json")).value();
  return kTokenizer;
}

inline ServedModelOptions served_options() {
  ServedModelOptions options;
  options.name = "tiny";
  options.context_tokens = 4096;
  options.vocab_size = 4096;
  options.stop_tokens = {*nano_tokenizer().token_id(text::kEos)};
  options.created = 1'770'000'000;
  options.new_id = [count = std::make_shared<int>(0)](std::string_view prefix) {
    return std::string(prefix) + std::to_string(++*count);
  };
  options.now = [] { return int64_t{1'770'000'001}; };
  options.new_seed = [] { return uint64_t{7}; };
  return options;
}

inline std::unique_ptr<ServedModel> served(ServedModelOptions options = served_options()) {
  return ServedModel::create(std::move(options), nano_tokenizer()).value();
}

inline HttpRequest post(std::string target, std::string body) {
  return {"POST", std::move(target), {{"Content-Type", "application/json"}}, std::move(body)};
}
inline HttpRequest get(std::string target) { return {"GET", std::move(target), {}, {}}; }

// Of a stream: its status is 200 and its body all that was sent.
inline HttpAnswer finish(Call& call, std::string sent) {
  if (!call.streams()) return call.answer();
  HttpAnswer answer;
  answer.content_type = "text/event-stream";
  answer.headers = call.headers();
  answer.body = std::move(sent);
  return answer;
}

// The call as if the model wrote `text`: control strings in it are control tokens.
inline HttpAnswer play(Call& call, std::string_view text, engine::Finish how = engine::Finish::stop,
                       int64_t cached_tokens = 0) {
  std::string sent;
  call.head(sent);
  const std::vector<engine::Request> requests = call.take_requests();
  engine::Completion completion;
  completion.finish = how;
  completion.prompt_tokens = static_cast<int64_t>(requests.at(0).prompt.size()) - cached_tokens;
  call.take(0,
            {.kind = engine::Event::Kind::prefill,
             .done_tokens = completion.prompt_tokens,
             .total_tokens = completion.prompt_tokens,
             .top = {},
             .result = {}},
            sent);
  for (const int32_t token : nano_tokenizer().encode(text)) {
    if (call.is_done()) break;
    call.take(0,
              {.kind = engine::Event::Kind::token,
               .token = token,
               .logprob = -1,
               .model_logprob = -1,
               .top = {},
               .result = {}},
              sent);
  }
  if (!call.is_done()) {
    call.take(0, {.kind = engine::Event::Kind::finished, .top = {}, .result = completion}, sent);
  }
  EXPECT_TRUE(call.is_done());
  return finish(call, std::move(sent));
}
// The body's call, played.
inline HttpAnswer play(const ServedModel& model, const HttpRequest& request, std::string_view text,
                       engine::Finish how = engine::Finish::stop, int64_t cached_tokens = 0) {
  Routed routed = route(request, model);
  if (auto* answer = std::get_if<HttpAnswer>(&routed)) return std::move(*answer);
  return play(*std::get<std::unique_ptr<Call>>(routed), text, how, cached_tokens);
}
// The prompt of the body's call as text.
inline std::string prompt_of(const ServedModel& model, const HttpRequest& request) {
  Routed routed = route(request, model);
  if (const auto* answer = std::get_if<HttpAnswer>(&routed)) return answer->body;
  const auto requests = std::get<std::unique_ptr<Call>>(routed)->take_requests();
  return nano_tokenizer().decode(requests.at(0).prompt).value();
}

class TinyServer {
 public:
  // `change`: of the engine's options.
  explicit TinyServer(ServedModelOptions options = served_options(),
                      const std::function<void(engine::EngineOptions&)>& change = {})
      : model_(served(std::move(options))) {
    auto config = formats::parse_config(kTinyModel, "tiny model").value();
    auto source = std::make_unique<model::RandomWeights>(config, 1);
    engine::ModelOptions model;
    model.precision = "exact";
    model.threads = 1;
    engine::EngineOptions engine;
    engine.cache_bytes = int64_t{64} << 20;
    engine.cache_block_tokens = 8;
    engine.prefix_cache.emplace();
    if (change) change(engine);
    engine_ = engine::Engine::create(
                  engine::LoadedModel::create(std::move(config), std::move(source), model).value(),
                  engine)
                  .value();
  }

  const ServedModel& model() const { return *model_; }
  engine::Engine& engine() { return *engine_; }

  // Runs a call to its end; the engine's events come in its own order.
  HttpAnswer run(const HttpRequest& request) {
    Routed routed = route(request, *model_);
    if (auto* answer = std::get_if<HttpAnswer>(&routed)) return std::move(*answer);
    Call& call = *std::get<std::unique_ptr<Call>>(routed);
    std::string sent;
    call.head(sent);
    std::deque<std::pair<size_t, AnswerEvent>> events;
    std::vector<engine::RequestId> ids;
    std::vector<engine::Request> requests = call.take_requests();
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].on_event = [&events, i](const engine::Event& event) {
        events.emplace_back(i, AnswerEvent::copy_of(event));
        return true;
      };
      const auto id = engine_->submit(std::move(requests[i]));
      if (!id) {
        call.refuse(i, id.error(), sent);
        break;
      }
      ids.push_back(*id);
    }
    bool has_work = true;
    while (has_work || !events.empty()) {
      has_work = engine_->step();
      for (; !events.empty(); events.pop_front()) {
        call.take(events.front().first, events.front().second, sent);
        for (size_t i = 0; i < ids.size(); ++i) {
          if (call.wants_cancel(i)) engine_->cancel(ids[i]);
        }
      }
    }
    EXPECT_TRUE(call.is_done());
    last_usage = call.usage();
    return finish(call, std::move(sent));
  }
  HttpAnswer post(std::string target, std::string body) {
    return run(testing::post(std::move(target), std::move(body)));
  }

  Usage last_usage;

 private:
  std::unique_ptr<ServedModel> model_;
  std::unique_ptr<engine::Engine> engine_;
};

inline json::value parsed(const HttpAnswer& answer) {
  auto value = parse_json(answer.body, "answer", 128);
  EXPECT_TRUE(value.has_value()) << answer.body;
  return value ? *value : json::value(json::object());
}
// "choices/0/text" of an answer; null where it is not there.
inline json::value at(const json::value& value, std::string_view path) {
  const json::value* place = &value;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view key = path.substr(0, slash);
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
    if (place->is_array()) {
      place = place->get_array().if_contains(std::stoul(std::string(key)));
    } else {
      place = place->is_object() ? place->get_object().if_contains(key) : nullptr;
    }
    if (place == nullptr) return nullptr;
  }
  return *place;
}
inline std::string text_at(const json::value& value, std::string_view path) {
  const json::value found = at(value, path);
  return found.is_string() ? std::string(std::string_view(found.get_string())) : std::string();
}

struct ServerEvent {
  std::string type;  // of the line "event:"
  std::string data;

  json::value json() const {
    auto value = parse_json(data, "event", 128);
    EXPECT_TRUE(value.has_value()) << data;
    return value ? *value : json::value(json::object());
  }
};
// The events of a stream, comments left out.
inline std::vector<ServerEvent> events_of(std::string_view stream) {
  std::vector<ServerEvent> events;
  ServerEvent event;
  while (!stream.empty()) {
    const size_t end = stream.find('\n');
    const std::string_view line = stream.substr(0, end);
    stream.remove_prefix(end == std::string_view::npos ? stream.size() : end + 1);
    if (line.starts_with("event: ")) event.type = line.substr(7);
    if (line.starts_with("data: ")) event.data = line.substr(6);
    if (line.empty() && !event.data.empty()) {
      events.push_back(std::move(event));
      event = {};
    }
  }
  return events;
}

}  // namespace cachalot::api::testing
