#include "model/precision.h"

#include <fmt/format.h>

namespace cachalot::model {

Result<Precision> parse_precision(std::string_view name) {
  if (name == "exact") return Precision::exact();
  if (name == "bf16") return Precision::bfloat16();
  if (name == "official") return Precision::official();
  if (name == "official-fp8") return Precision::official_fp8();
  return invalid_argument(
      fmt::format("precision: expected exact, bf16, official or official-fp8, found \"{}\"", name));
}

}  // namespace cachalot::model
