#include "post/teacher_states.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "data/data_testing.h"
#include "numeric/formats.h"

namespace cachalot::post {
namespace {

class TeacherStatesTest : public data::DataFiles {};

TEST_F(TeacherStatesTest, ComeBackAsTheyWereOrRounded) {
  const std::vector<SampleRows> samples = {{7, 3}, {2, 0}, {900, 5}};
  RngStream rng(1, RngPurpose::data, 0);
  std::vector<std::vector<float>> states;
  for (const SampleRows& sample : samples) {
    auto& values = states.emplace_back();
    for (int64_t i = 0; i < sample.rows * 6; ++i)
      values.push_back(static_cast<float>(rng.next_normal()));
  }
  for (const StateType type : {StateType::f32, StateType::bf16}) {
    auto writer = TeacherStatesWriter::create(path("states"), samples, 6, type);
    ASSERT_TRUE(writer.has_value()) << writer.error().message();
    for (const std::vector<float>& values : states) ASSERT_TRUE(writer->add(values).ok());
    ASSERT_TRUE(writer->finish().ok());
    const auto read = TeacherStates::open(path("states"));
    ASSERT_TRUE(read.has_value()) << read.error().message();
    EXPECT_EQ(read->hidden_size(), 6);
    for (size_t i = 0; i < samples.size(); ++i) {
      std::vector<float> expected = states[i];
      if (type == StateType::bf16)
        for (float& value : expected) value = numeric::round_to_bf16(value);
      EXPECT_EQ(tensor::to_floats(*read->of(samples[i].id)), expected);
    }
    EXPECT_NE(read->of(8).error().message().find("expected states of sample 8, found none"),
              std::string::npos);
  }
}

TEST_F(TeacherStatesTest, AnUnfinishedFileIsNone) {
  const std::vector<SampleRows> samples = {{1, 2}};
  {
    auto writer = TeacherStatesWriter::create(path("states"), samples, 2, StateType::f32);
    ASSERT_TRUE(writer->add(std::vector<float>{1, 2}).ok());
    EXPECT_EQ(writer->finish().code(), StatusCode::data_loss);
  }
  EXPECT_FALSE(std::filesystem::exists(path("states")));
  EXPECT_FALSE(TeacherStates::open(path("states")).has_value());
}

}  // namespace
}  // namespace cachalot::post
