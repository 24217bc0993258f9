// The automaton of one rule while a grammar is compiled: no empty moves, targets are local, the
// first state is the start.
#pragma once

#include <vector>

#include "grammar/automaton.h"

namespace cachalot::grammar {

struct RuleAutomaton {
  struct State {
    std::vector<ByteEdge> bytes;  // sorted, as the others
    std::vector<ControlEdge> controls;
    std::vector<CallEdge> calls;
    bool is_final = false;
  };
  std::vector<State> states;
};

// Makes one of states that go on alike, and one edge of a state's byte edges to one state that
// touch. Of an automaton in which no byte, token or call leads on in two ways the result is the
// smallest.
void merge_alike(RuleAutomaton& rule);

}  // namespace cachalot::grammar
