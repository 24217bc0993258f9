// Whether and how hard an answer thinks, under every name that clients send
// (reference/chat 2.4, 5.2).
#pragma once

#include "api/fields.h"
#include "api/served_model.h"
#include "text/chat_encoding.h"

namespace cachalot::api {

struct ThinkingFields {
  bool thinks = true;
  text::ReasoningEffort effort = {};
  bool drops_earlier = true;  // drop_thinking
  bool is_shown = true;       // to the client
};

// thinking, reasoning_effort, reasoning, output_config.effort, chat_template_kwargs,
// enable_thinking, think, include_reasoning. `thinks_otherwise`: where the client does not say. An
// effort of "none" turns thinking off whatever else is said.
ThinkingFields read_thinking(Fields& fields, const ServedModel& model, bool thinks_otherwise);

}  // namespace cachalot::api
