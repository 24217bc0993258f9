#include "device/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace cachalot::device {
namespace {

TEST(Isa, NamesRoundTrip) {
  for (Isa isa : {Isa::reference, Isa::avx2, Isa::avx512, Isa::avx512bf16}) {
    const auto parsed = parse_isa(isa_name(isa));
    ASSERT_TRUE(parsed.has_value()) << isa_name(isa);
    EXPECT_EQ(*parsed, isa);
  }
}

TEST(Isa, RefusesOtherNamesAndShowsThem) {
  for (const char* name : {"", "AVX2", "avx", "avx5120", "sse"}) {
    const auto parsed = parse_isa(name);
    ASSERT_FALSE(parsed.has_value()) << name;
    EXPECT_EQ(parsed.error().code(), StatusCode::invalid_argument);
    EXPECT_NE(parsed.error().message().find('"' + std::string(name) + '"'), std::string::npos);
  }
}

TEST(Isa, TheMachineRunsEveryLevelUpToItsBest) {
  const std::vector<Isa> isas = machine_isas();
  ASSERT_FALSE(isas.empty());
  for (size_t i = 0; i < isas.size(); ++i) EXPECT_EQ(static_cast<size_t>(isas[i]), i);
  EXPECT_EQ(isas.back(), machine_isa());
}

TEST(Isa, TheEnvironmentChoosesALowerLevel) {
  ASSERT_EQ(::unsetenv("CACHALOT_ISA"), 0);
  EXPECT_EQ(*chosen_isa(), machine_isa());
  for (Isa isa : machine_isas()) {
    ASSERT_EQ(::setenv("CACHALOT_ISA", std::string(isa_name(isa)).c_str(), 1), 0);
    EXPECT_EQ(*chosen_isa(), isa);
  }
  ASSERT_EQ(::setenv("CACHALOT_ISA", "best", 1), 0);
  EXPECT_EQ(chosen_isa().error().code(), StatusCode::invalid_argument);
  EXPECT_TRUE(chosen_isa().error().message().starts_with("CACHALOT_ISA: "));
  if (machine_isa() != Isa::avx512bf16) {
    ASSERT_EQ(::setenv("CACHALOT_ISA", "avx512bf16", 1), 0);
    EXPECT_EQ(chosen_isa().error().code(), StatusCode::unsupported);
  }
  ::unsetenv("CACHALOT_ISA");
}

}  // namespace
}  // namespace cachalot::device
