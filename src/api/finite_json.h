// Numbers that JSON text cannot spell.
#pragma once

#include "base/json_fwd.h"

namespace cachalot::api {

// JSON text has no infinity, but 1e999 reads as one: such numbers become the largest there are.
void make_finite(json::value& value);

}  // namespace cachalot::api
