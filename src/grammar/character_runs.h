// Runs of a set: characters that it takes in any order, so many of them. Inside a string, a name
// or free text nearly every token is of such characters alone, and is known without walking it.
// Method   The sets that the characters lead to, layer by layer, where counts that can not run out
//          within a short token are as one. Characters that lead where others of the run are
//          refused are left out of it, the rarest first.
// Threads  One at a time.
#pragma once

#include <bitset>
#include <unordered_map>
#include <vector>

#include "grammar/pushdown.h"
#include "grammar/token_contents.h"

namespace cachalot::grammar {

struct CharacterRun {
  CharacterSet inside;
  // Any text of at most so many of them, and of at most kMaxShortBytes bytes, goes on, also where
  // its last character is cut short. Any number of them if it is kMaxShortBytes; 0: there is no
  // run worth the trouble.
  int count = 0;
  std::bitset<256> taken;   // what may come after such a text
  uint64_t groups = 0;      // some character of which may, or one that begins like them
  bool leaves_cut = false;  // a text of them may leave the set's cut
  // Of the sets that such texts lead to.
  int32_t nesting = 0;
  size_t num_configurations = 0;
};

class CharacterRuns {
 public:
  CharacterRuns(Pushdown& pushdown, const TokenContents& contents)
      : pushdown_(pushdown), contents_(contents) {
    runs_.reserve(kUsualSets);
    steps_.reserve(kUsualSets);
  }

  // Valid until the next call. Gives up where the pushdown's work would pass the limit.
  const CharacterRun& find(SetId set, uint64_t work_limit);

 private:
  struct Edge {
    SetId to;
    CharacterSet by;
  };
  // Where a set's characters lead.
  struct Steps {
    CharacterSet taken;
    std::bitset<256> bytes;
    uint64_t groups = 0;  // some character of which is taken, or one that begins like them
    std::vector<Edge> edges;
    bool is_simple = true;    // counts that are as one have made no configurations one
    bool leaves_cut = false;  // before or inside a character
    int32_t nesting = 0;
    size_t num_configurations = 0;
  };
  struct Reached {
    SetId set;
    int32_t from;  // in reached_
    CharacterSet by;
  };

  CharacterRun make(SetId start, uint64_t work_limit);
  // Fills run.count. Otherwise the characters to leave out.
  CharacterSet follow(SetId start, CharacterRun& run);
  CharacterSet cause(const Reached& reached, const CharacterSet& missing) const;
  const Steps* steps_of(SetId set);
  Steps make_steps(SetId set);
  void add_edge(SetId to, const CharacterSet& by, Steps& steps);
  // Characters beyond ASCII while they are read, and what is known of the set that reads them.
  struct Beyond;
  struct Rest;
  void add_beyond(SetId set, Steps& steps);
  const Rest& rest_of(SetId set, uint8_t first, uint8_t last, int more, Beyond& beyond);
  void read_rest(SetId set, uint32_t bits, uint8_t first, uint8_t last, int more, Beyond& beyond);
  void note(SetId set, Steps& steps) const;
  void note_size(SetId set, Steps& steps) const;

  Pushdown& pushdown_;
  const TokenContents& contents_;
  std::unordered_map<SetId, CharacterRun> runs_;
  std::unordered_map<SetId, Steps> steps_;
  std::vector<CharacterSet> insides_;  // of the last runs
  std::vector<Reached> reached_;
  uint64_t work_limit_ = 0;
  int steps_left_ = 0;
};

}  // namespace cachalot::grammar
