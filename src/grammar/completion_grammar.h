// Whole completions as grammars: reasoning, which is free, and an answer, which is bound to a
// grammar or to well-formed tool calls.
// Source   reference/chat 2.8, 3.1: what text/completion_parser.h reads without a deviation. Tags
//          and their spellings are those of text/dsml_tags.h.
// Tokens   Control tokens (the end of reasoning, the DSML mark) stand where the vocabulary has
//          them; a vocabulary without them has their spelling as text.
// Narrower Text outside the calls never spells a tool tag or a reasoning mark; a fence left open
//          rules calls out. Arguments come in the schema's order. A string argument with a pattern,
//          a length or a grammar has no U+FF5C.
// Errors   As json_schema.h for tools that are strict; for others, what cannot be enforced is not:
//          any value is taken there. invalid_argument for names that no tag can hold.
// Threads  One at a time; tools are borrowed while the grammar is written.
#pragma once

#include <span>

#include "base/status.h"
#include "grammar/expression.h"
#include "grammar/vocabulary.h"
#include "text/chat_message.h"
#include "text/completion_parser.h"

namespace cachalot::grammar {

// Puts free text and the end of reasoning before the grammar's root.
// `offers_tools`: the prompt shows tools, so that the parser looks for calls in reasoning too.
void add_reasoning(GrammarSource& source, const Vocabulary& vocabulary, text::PromptFamily family,
                   bool offers_tools);

// What the text of a tool that takes a text, and no JSON, must be. Empty: any text.
struct InputGrammar {
  enum class Syntax { regex, lark };
  Syntax syntax = Syntax::regex;
  std::string text = {};
};
Result<GrammarSource> input_source(const InputGrammar& input);

struct CallableTool {
  text::OfferedTool tool;
  bool is_strict = false;
  InputGrammar input = {};  // of its one parameter
};

// tool_choice: "auto", "required" (or a name, with that tool alone in the list), "none".
enum class ToolChoice { automatic, required, none };

struct ToolGrammarOptions {
  text::PromptFamily family = text::PromptFamily::v4;
  bool starts_in_reasoning = true;
  ToolChoice choice = ToolChoice::automatic;
  bool parallel = true;
  // Those that may be called. Empty only with ToolChoice::none.
  std::span<const CallableTool> tools;
  // What an answer without calls is. Null: any text, calls after it.
  const GrammarSource* content = nullptr;
};

Result<GrammarSource> tool_grammar(const ToolGrammarOptions& options, const Vocabulary& vocabulary);

}  // namespace cachalot::grammar
