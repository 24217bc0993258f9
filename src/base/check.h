// Checks for what cannot happen: a failed one ends the process and prints the condition, the place
// and the values. Outside input must never reach one; it is validated at the border and reported as
// a Status.
#pragma once

#include <string_view>

namespace cachalot {
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               std::string_view detail);
}

#define CACHALOT_CHECK(cond)                                   \
  do {                                                         \
    if (!(cond)) [[unlikely]]                                  \
      ::cachalot::check_failed(__FILE__, __LINE__, #cond, {}); \
  } while (false)
#define CACHALOT_CHECK_MSG(cond, detail)                             \
  do {                                                               \
    if (!(cond)) [[unlikely]]                                        \
      ::cachalot::check_failed(__FILE__, __LINE__, #cond, (detail)); \
  } while (false)

#ifdef NDEBUG
#define CACHALOT_DCHECK(cond) \
  do {                        \
  } while (false)
#else
#define CACHALOT_DCHECK(cond) CACHALOT_CHECK(cond)
#endif
