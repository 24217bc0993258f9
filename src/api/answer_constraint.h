// What an answer's text is bound to: a schema, a pattern, a list, a grammar, under every spelling
// that clients use; and with it the tools that may be called.
// Source  reference/chat 2.8, 2.10, 5.2.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/error.h"
#include "api/fields.h"
#include "api/generation_fields.h"
#include "grammar/completion_grammar.h"

namespace cachalot::api {

struct AnswerConstraint {
  enum class Kind { none, json_object, json_schema, regex, choice, grammar };
  Kind kind = Kind::none;
  std::string where;      // the field that asked for it
  json::value value;      // the schema, the pattern, the list, the grammar's text
  bool is_shown = false;  // a schema that the prompt tells the model (reference/chat 2.10)
};

// Of response_format, structured_outputs, guided_json and its kin, json_schema, regex, grammar,
// ebnf. Errors: more than one of them; what cannot be enforced, by name.
Result<AnswerConstraint> read_constraint(Fields& fields);
// Of {"type": "text" | "json_object" | "json_schema", ...}, in OpenAI's nested or flat form.
Result<AnswerConstraint> read_format(const json::value& format, const std::string& where);
// Makes `one` the constraint. Errors: its own, or that there is another already.
Status add_constraint(AnswerConstraint& all, Result<AnswerConstraint> one);

struct AnswerTools {
  text::PromptFamily family = text::PromptFamily::v4;
  bool starts_in_reasoning = false;
  bool is_offered = false;  // the prompt shows tools
  std::vector<grammar::CallableTool> tools;
  grammar::ToolChoice choice = grammar::ToolChoice::automatic;
  bool parallel = true;
};

// Null where every text may come.
Result<std::shared_ptr<CachedGrammar>> answer_grammar(const AnswerConstraint& constraint,
                                                      const AnswerTools& tools,
                                                      const GenerationFields& asked,
                                                      const ServedModel& model);

}  // namespace cachalot::api
