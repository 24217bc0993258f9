#include "api/served_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

namespace cachalot::api {
namespace {

// Of compiled grammars; each may come to some tens of megabytes.
constexpr size_t kMaxGrammars = 32;

std::string random_id(std::string_view prefix) {
  std::random_device device;
  return fmt::format("{}{:08x}{:08x}{:08x}", prefix, device(), device(), device());
}

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

int64_t unix_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

}  // namespace

Result<std::unique_ptr<ServedModel>> ServedModel::create(ServedModelOptions options,
                                                         const text::Tokenizer& tokenizer) {
  if (!options.new_id) options.new_id = random_id;
  if (!options.new_seed) options.new_seed = random_seed;
  if (!options.now) options.now = unix_seconds;
  if (options.created == 0) options.created = options.now();
  std::unique_ptr<ServedModel> model(new ServedModel(std::move(options), tokenizer));
  // Only control tokens can end a text that is bound to a grammar.
  std::vector<int32_t> ends;
  for (const text::AddedToken& token : tokenizer.added_tokens()) {
    const std::vector<int32_t>& stops = model->options_.stop_tokens;
    if (std::find(stops.begin(), stops.end(), token.id) != stops.end()) ends.push_back(token.id);
  }
  CACHALOT_ASSIGN_OR_RETURN(grammar::Vocabulary vocabulary,
                            grammar::Vocabulary::create(tokenizer, ends));
  model->vocabulary_ = std::make_shared<const grammar::Vocabulary>(std::move(vocabulary));
  model->grammars_ = std::make_unique<GrammarCache>(model->vocabulary_, kMaxGrammars);
  return model;
}

ServedModel::Name ServedModel::name(std::string_view asked, bool any_claude) const {
  Name name;
  if (asked.ends_with(kNoThinking)) {
    asked.remove_suffix(kNoThinking.size());
    name.thinks = false;
  }
  const std::vector<std::string>& aliases = options_.aliases;
  name.is_known = asked.empty() || asked == options_.name || asked == "deepseek-reasoner" ||
                  std::find(aliases.begin(), aliases.end(), asked) != aliases.end();
  if (asked == "deepseek-chat") name = {true, false};
  if (any_claude && asked.starts_with("claude")) {
    name.is_known = true;
    if (asked.find("haiku") != std::string_view::npos) name.thinks = false;
  }
  return name;
}

}  // namespace cachalot::api
