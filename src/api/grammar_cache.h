// Compiled grammars by what they came from: clients send the same tools with every request.
// Threads  find() from any. The automata themselves are for one thread, the engine's: masks call
//          them there and nowhere else.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "base/status.h"
#include "grammar/token_automaton.h"

namespace cachalot::api {

struct CachedGrammar {
  std::shared_ptr<grammar::TokenAutomaton> automaton;
  // Its memory is used up, so that the next request gets a new one.
  std::atomic<bool> is_spent = false;
};

class GrammarCache {
 public:
  GrammarCache(std::shared_ptr<const grammar::Vocabulary> vocabulary, size_t max_grammars)
      : vocabulary_(std::move(vocabulary)), max_grammars_(max_grammars) {}

  // `name` says all that decides what the grammar is, in few bytes; `write` makes it.
  Result<std::shared_ptr<CachedGrammar>> find(
      const std::string& name, const std::function<Result<grammar::GrammarSource>()>& write);

 private:
  struct Entry {
    std::string name;
    std::shared_ptr<CachedGrammar> grammar;
  };

  std::shared_ptr<const grammar::Vocabulary> vocabulary_;
  size_t max_grammars_;
  std::mutex mutex_;          // of those below
  std::list<Entry> entries_;  // the one used last first
  std::unordered_map<std::string, std::list<Entry>::iterator> places_;
};

}  // namespace cachalot::api
