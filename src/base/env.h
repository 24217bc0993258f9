// The environment variables Cachalot reads, all of them, each with a line of help. Nothing else
// calls getenv (libraries that draw on a terminal read TERM and the locale themselves).
#pragma once

#include <string>
#include <vector>

namespace cachalot {

struct EnvVariable {
  const char* name;
  const char* help;
};
const std::vector<EnvVariable>& env_variables();

std::string env_log_level();  // CACHALOT_LOG, default "info"
std::string env_isa();        // CACHALOT_ISA, empty = the best the machine has
int env_threads();            // CACHALOT_THREADS, 0..1024; 0 = one per core
bool env_allows_color();      // NO_COLOR is unset or empty, and TERM is not "dumb"
std::string
env_state_dir();  // $XDG_STATE_HOME/cachalot, else ~/.local/state/cachalot; empty: no home

}  // namespace cachalot
