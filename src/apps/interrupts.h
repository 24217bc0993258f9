// Ctrl-C as something to ask about instead of the end of the program.
#pragma once

namespace cachalot::apps {

// From now on SIGINT is counted, and interrupts blocking reads. One more than `patience` of them
// without clear_interrupts() between ends the program after all: a step that does not come back
// must not take the terminal with it. `first`, if given, goes to standard output at the first one,
// at once; it outlives the watching.
void watch_interrupts(int patience, const char* first = nullptr);
int interrupts();
void clear_interrupts();

}  // namespace cachalot::apps
