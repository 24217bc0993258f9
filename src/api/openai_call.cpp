#include "api/openai_call.h"

#include "api/openai_usage.h"
#include "api/sse.h"

namespace cachalot::api {

OpenAiCall::OpenAiCall(const ServedModel& model, std::vector<Ask> asks, bool streams,
                       bool tells_usage)
    : GeneratedCall(model, std::move(asks), streams, ErrorShape::openai),
      tells_usage_(tells_usage) {}

std::string OpenAiCall::keep_alive() { return std::string(kKeepAliveComment); }

void OpenAiCall::append_last(json::object choice, std::string& out) {
  json::object last = chunk(json::array{std::move(choice)});
  if (++num_ended_ == answers().size() && !tells_usage_) last["usage"] = openai_usage(usage());
  append_data(last, out);
}

void OpenAiCall::write_end(std::string& out) {
  if (tells_usage_) {
    json::object last = chunk({});
    last["usage"] = openai_usage(usage());
    append_data(last, out);
  }
  out += kDone;
}

void OpenAiCall::write_error(const ApiError& error, std::string& out) {
  append_data(error_body(error, ErrorShape::openai), out);
  out += kDone;
}

}  // namespace cachalot::api
