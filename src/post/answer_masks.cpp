#include "post/answer_masks.h"

#include <fmt/format.h>

#include "api/grammar_mask.h"
#include "grammar/completion_grammar.h"
#include "grammar/json_schema.h"
#include "text/chat_literals.h"

namespace cachalot::post {
namespace {

constexpr size_t kMaxGrammars = 32;

}  // namespace

Result<std::unique_ptr<AnswerMasks>> AnswerMasks::create(std::string_view tokenizer_json,
                                                         int64_t vocab_size) {
  CACHALOT_ASSIGN_OR_RETURN(text::Tokenizer tokenizer,
                            text::Tokenizer::from_json(tokenizer_json, "tokenizer.json"));
  std::unique_ptr<AnswerMasks> masks(new AnswerMasks(std::move(tokenizer), vocab_size));
  CACHALOT_ASSIGN_OR_RETURN(masks->family_, text::prompt_family(masks->tokenizer_, ""));
  CACHALOT_ASSIGN_OR_RETURN(grammar::Vocabulary vocabulary,
                            grammar::Vocabulary::create(masks->tokenizer_));
  masks->vocabulary_ = std::make_shared<const grammar::Vocabulary>(std::move(vocabulary));
  masks->grammars_ = std::make_unique<api::GrammarCache>(masks->vocabulary_, kMaxGrammars);
  return masks;
}

Result<MakeMask> AnswerMasks::mask_of(const RolloutPlan& plan, int64_t answer,
                                      const RolloutAnswer& so_far) const {
  const RolloutGroup& group = plan.group_of(answer);
  if (group.schema.empty()) return MakeMask();
  const bool reasons = tokenizer_.token_id(text::kThinkStart) == group.prompt.back();
  const auto write = [&]() -> Result<grammar::GrammarSource> {
    CACHALOT_ASSIGN_OR_RETURN(const json::value schema, parse_json(group.schema, "schema"));
    CACHALOT_ASSIGN_OR_RETURN(grammar::GrammarSource source, grammar::json_schema_grammar(schema));
    if (reasons) grammar::add_reasoning(source, *vocabulary_, family_, false);
    return source;
  };
  CACHALOT_ASSIGN_OR_RETURN(std::shared_ptr<api::CachedGrammar> grammar,
                            grammars_->find(fmt::format("{} {}", reasons, group.schema), write));
  api::GrammarMask::Options options;
  options.grammar = std::move(grammar);
  options.stop_tokens.assign(vocabulary_->end_tokens().begin(), vocabulary_->end_tokens().end());
  options.vocab_size = vocab_size_;
  return MakeMask([options = std::move(options), ids = so_far.ids] {
    auto mask = std::make_unique<api::GrammarMask>(options);
    for (const int32_t id : ids) mask->take(id);
    return mask;
  });
}

}  // namespace cachalot::post
