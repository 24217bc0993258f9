// The environment variables Cachalot reads, all of them, each with a line of help. Nothing else
// calls getenv (libraries that draw on a terminal read TERM and the locale themselves). An empty
// value counts as none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace cachalot {

struct EnvVariable {
  const char* name;
  const char* help;
};
const std::vector<EnvVariable>& env_variables();

// invalid_argument: a value that its variable does not know, with the variable's name, what it
// takes, and the value; one line for each. main asks before it starts anything. (What CACHALOT_ISA
// may be is device/isa.h's to say.)
Status check_environment();

// Where the value is not known, these give the default.
std::string env_log_level();  // CACHALOT_LOG, default "info"
std::string env_isa();        // CACHALOT_ISA, empty = the best the machine has
int env_threads();            // CACHALOT_THREADS, 0..1024; 0 = one per usable core

bool env_allows_color();  // NO_COLOR is unset or empty, and TERM is not "dumb"
// Where what can be made again is kept: CACHALOT_CACHE_DIR, else $XDG_CACHE_HOME/cachalot, else
// ~/.cache/cachalot; empty: no home.
std::string env_cache_dir();
int64_t env_cache_gib();  // CACHALOT_CACHE_GIB, default 32; 0 = keep nothing
// $XDG_STATE_HOME/cachalot, else ~/.local/state/cachalot; empty: no home.
std::string env_state_dir();

}  // namespace cachalot
