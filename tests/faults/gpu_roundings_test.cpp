// The roundings of the published code that a patch leaves out, or adds, are noticed on a GPU too.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/test_data.h"
#include "device/gpu.h"
#include "planted.h"
#include "verify/golden.h"

namespace cachalot::verify {
namespace {

// Of the golden checks, the first that fails; empty if all hold.
std::string first_failure(const std::string& precision) {
  VerifyOptions options;
  options.directory = test_data("golden/quant");
  options.precision = precision;
  options.device = "cuda";
  options.invariance = Invariance::none;
  const Result<GoldenReport> report = verify_golden(options);
  if (!report) return report.error().message();
  return report->all_hold() ? "" : report->failed().front();
}

struct Case {
  const char* precision;
  const char* fault;
  const char* name;
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};
class GpuRoundings : public ::testing::TestWithParam<Case> {};

TEST_P(GpuRoundings, AreNoticed) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  ASSERT_TRUE(planted::turn_on(GetParam().fault));
  const std::string check = first_failure(GetParam().precision);
  planted::turn_on("");
  RecordProperty("check", check);
  const bool is_planted = GetParam().fault[0] != '\0';
  EXPECT_EQ(check != "", is_planted) << check;
}

// official-fp8 has no code for four of them: codes are what its products take and their results are
// rounded (a product that is not asked to is refused), and its boundary rounds the streams, which
// their kernels' tests compare with the formulas.
INSTANTIATE_TEST_SUITE_P(
    Levels, GpuRoundings,
    ::testing::Values(
        Case{"official", "", "official_none"}, Case{"official-fp8", "", "official_fp8_none"},
        Case{"official", "official-index-weights-not-rounded", "official_index_weights"},
        Case{"official", "official-no-act-quant", "official_act_quant"},
        Case{"official", "official-pooled-not-rounded", "official_pooled"},
        Case{"official", "official-products-not-rounded", "official_products"},
        Case{"official", "official-query-norm-fp32", "official_query_norm"},
        Case{"official", "official-rotary-part-snapped", "official_rotary_part"},
        Case{"official", "official-streams-not-rounded", "official_streams"},
        Case{"official", "official-w2-input-not-quantised", "official_w2_input"},
        Case{"official", "official-wo-a-input-quantised", "official_wo_a_input"},
        Case{"official-fp8", "official-index-weights-not-rounded", "official_fp8_index_weights"},
        Case{"official-fp8", "official-pooled-not-rounded", "official_fp8_pooled"},
        Case{"official-fp8", "official-query-norm-fp32", "official_fp8_query_norm"},
        Case{"official-fp8", "official-rotary-part-snapped", "official_fp8_rotary_part"},
        Case{"official-fp8", "official-wo-a-input-quantised", "official_fp8_wo_a_input"}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace cachalot::verify
