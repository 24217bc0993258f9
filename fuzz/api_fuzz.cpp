// The input's first byte chooses an endpoint, the rest is a body. It must be refused with 4xx, be
// answered, or become a call; a call must end well whatever the model writes.
#include <cstdint>
#include <string>
#include <string_view>

#include "api/router.h"
#include "base/check.h"
#include "base/json.h"
#include "base/test_data.h"
#include "text/chat_literals.h"

namespace cachalot::api {
namespace {

constexpr std::string_view kPaths[] = {"/v1/completions", "/v1/chat/completions",
                                       "/v1/messages",    "/v1/messages/count_tokens",
                                       "/v1/responses",   "/tokenize",
                                       "/detokenize"};
constexpr std::string_view kAnswer =
    "So.</think>Well \xf0\x9f. END\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
    "<｜DSML｜parameter name=\"input\" string=\"true\">x</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

const text::Tokenizer& tokenizer() {
  static const text::Tokenizer kTokenizer =
      text::Tokenizer::load(test_data("../models/nano/tokenizer.json")).value();
  return kTokenizer;
}

const ServedModel& model() {
  static const std::unique_ptr<ServedModel> kModel = [] {
    ServedModelOptions options;
    options.name = "tiny";
    options.context_tokens = 4096;
    options.vocab_size = 4096;
    options.max_answers = 4;
    options.stop_tokens = {*tokenizer().token_id(text::kEos)};
    return ServedModel::create(std::move(options), tokenizer()).value();
  }();
  return *kModel;
}

void check_json(std::string_view body) {
  const auto value = parse_json(body, "answer", 4096);
  CACHALOT_CHECK_MSG(value.has_value(), std::string(body));
}

// Every answer the same, cut at a place that depends on the input.
void play(Call& call, size_t num_tokens) {
  static const std::vector<int32_t> kTokens = tokenizer().encode(kAnswer);
  std::string sent;
  call.head(sent);
  const std::vector<engine::Request> requests = call.take_requests();
  num_tokens %= kTokens.size() + 1;
  for (size_t i = 0; i < requests.size(); ++i) {
    for (int64_t answer = 0; answer < requests[i].num_answers; ++answer) {
      AnswerEvent event{
          .kind = engine::Event::Kind::token, .answer = answer, .top = {{1, -1.0}}, .result = {}};
      for (size_t k = 0; k < num_tokens; ++k) {
        event.token = kTokens[k];
        call.take(i, event, sent);
      }
      engine::Completion completion;
      completion.finish =
          num_tokens == kTokens.size() ? engine::Finish::stop : engine::Finish::length;
      completion.prompt_tokens = 1;
      if (requests[i].wants_prompt_logprobs) {
        completion.prompt_logprobs.assign(requests[i].prompt.size(), -1.0);
        completion.prompt_top.assign(
            requests[i].prompt.size() * static_cast<size_t>(requests[i].num_top_logprobs),
            {1, -1.0});
      }
      event = {.kind = engine::Event::Kind::finished,
               .answer = answer,
               .top = {},
               .result = Result<engine::Completion>(std::move(completion))};
      call.take(i, event, sent);
    }
  }
  CACHALOT_CHECK(call.is_done());
  if (call.streams()) {
    CACHALOT_CHECK(sent.ends_with("\n\n"));
    return;
  }
  CACHALOT_CHECK(sent.empty());
  const HttpAnswer answer = call.answer();
  CACHALOT_CHECK(answer.status == 200);
  check_json(answer.body);
}

}  // namespace
}  // namespace cachalot::api

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cachalot::api;
  if (size == 0) return 0;
  HttpRequest request;
  request.method = "POST";
  request.target = kPaths[data[0] % std::size(kPaths)];
  request.body.assign(reinterpret_cast<const char*>(data) + 1, size - 1);
  Routed routed = route(request, model());
  if (auto* call = std::get_if<std::unique_ptr<Call>>(&routed)) {
    play(**call, size);
    return 0;
  }
  const HttpAnswer& answer = std::get<HttpAnswer>(routed);
  CACHALOT_CHECK(answer.status == 200 || (answer.status >= 400 && answer.status < 500));
  check_json(answer.body);
  return 0;
}
