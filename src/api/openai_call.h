// What the streams of OpenAI's chat completions and completions share: keep-alives, usage, the end,
// errors.
#pragma once

#include <string>
#include <vector>

#include "api/generated_call.h"
#include "base/json.h"

namespace cachalot::api {

class OpenAiCall : public GeneratedCall {
 public:
  std::string keep_alive() override;

 protected:
  // tells_usage: in a chunk of its own, as the client asked.
  OpenAiCall(const ServedModel& model, std::vector<Ask> asks, bool streams, bool tells_usage);

  virtual json::object chunk(json::array choices) const = 0;
  bool tells_usage() const { return tells_usage_; }
  // The last chunk of one choice. Meters read usage wherever it stands: who did not ask for it
  // finds it in the last of these.
  void append_last(json::object choice, std::string& out);
  void write_end(std::string& out) override;
  void write_error(const ApiError& error, std::string& out) override;

 private:
  const bool tells_usage_;
  size_t num_ended_ = 0;
};

}  // namespace cachalot::api
