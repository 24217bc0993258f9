#include "api/grammar_cache.h"

namespace cachalot::api {

Result<std::shared_ptr<CachedGrammar>> GrammarCache::find(
    const std::string& name, const std::function<Result<grammar::GrammarSource>()>& write) {
  {
    const std::scoped_lock lock(mutex_);
    const auto found = places_.find(name);
    if (found != places_.end() && !found->second->grammar->is_spent) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return found->second->grammar;
    }
  }
  // Without the lock: another call may compile the same beside, and the last one stays.
  CACHALOT_ASSIGN_OR_RETURN(const grammar::GrammarSource source, write());
  auto made = std::make_shared<CachedGrammar>();
  CACHALOT_ASSIGN_OR_RETURN(made->automaton, grammar::TokenAutomaton::create(source, vocabulary_));
  CACHALOT_RETURN_IF_ERROR(made->automaton->prepare());
  const std::scoped_lock lock(mutex_);
  if (const auto found = places_.find(name); found != places_.end()) {
    entries_.erase(found->second);
    places_.erase(found);
  }
  entries_.push_front({name, made});
  places_[name] = entries_.begin();
  if (entries_.size() > max_grammars_) {
    places_.erase(entries_.back().name);
    entries_.pop_back();
  }
  return made;
}

}  // namespace cachalot::api
