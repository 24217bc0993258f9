#include "device/isa.h"

#include <fmt/format.h>

#include "base/env.h"

namespace cachalot::device {

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::reference: return "reference";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512bf16: return "avx512bf16";
  }
  return "unknown";
}

Result<Isa> parse_isa(std::string_view name) {
  for (Isa isa : {Isa::reference, Isa::avx2, Isa::avx512, Isa::avx512bf16}) {
    if (name == isa_name(isa)) return isa;
  }
  return invalid_argument(fmt::format(
      "instruction set: expected reference, avx2, avx512 or avx512bf16, found \"{}\"", name));
}

Isa machine_isa() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::reference;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Isa::avx2;
  }
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vbmi") ||
      !__builtin_cpu_supports("avx512vnni")) {
    return Isa::avx512;
  }
  return Isa::avx512bf16;
}

std::vector<Isa> machine_isas() {
  std::vector<Isa> isas;
  for (int isa = 0; isa <= static_cast<int>(machine_isa()); ++isa)
    isas.push_back(static_cast<Isa>(isa));
  return isas;
}

Result<Isa> chosen_isa() {
  const std::string name = env_isa();
  if (name.empty()) return machine_isa();
  const Result<Isa> named = parse_isa(name);
  if (!named) return Status(named.error().code(), "CACHALOT_ISA: " + named.error().message());
  if (*named > machine_isa()) {
    return unsupported(fmt::format("CACHALOT_ISA: expected at most {} on this machine, found {}",
                                   isa_name(machine_isa()), name));
  }
  return named;
}

}  // namespace cachalot::device
