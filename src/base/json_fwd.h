// The names of JSON values, for headers that only pass them on: Boost.JSON itself takes a second to
// compile.
#pragma once

#include <boost/json/fwd.hpp>

namespace cachalot {

namespace json = boost::json;

}  // namespace cachalot
