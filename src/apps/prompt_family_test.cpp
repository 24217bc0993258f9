// Which prompt family a checkpoint's prompts take.
// Source  reference/chat 0.
#include <gtest/gtest.h>

#include "apps/prompt_ids.h"
#include "base/file.h"
#include "base/test_data.h"
#include "text/chat_literals.h"

namespace cachalot::apps {
namespace {

TEST(PromptFamily, IsTheTokenizersUnlessItIsNamed) {
  const std::string path = test_data("../models/nano/tokenizer.json");
  text::Tokenizer tokenizer =
      text::Tokenizer::from_json(read_text_file(path).value(), path).value();
  EXPECT_EQ(prompt_family(tokenizer, "").value(), text::PromptFamily::v4);
  // v4 and v4-0731 have one tokenizer.
  EXPECT_EQ(prompt_family(tokenizer, "v4-0731").value(), text::PromptFamily::v4_0731);
  text::AddedToken system;
  system.id = tokenizer.vocab_size();
  system.content = text::kSystemToken;
  ASSERT_TRUE(tokenizer.add_tokens({&system, 1}).ok());
  EXPECT_EQ(prompt_family(tokenizer, "").value(), text::PromptFamily::v4_1);
  EXPECT_EQ(prompt_family(tokenizer, "v4").value(), text::PromptFamily::v4);
  const auto unknown = prompt_family(tokenizer, "v5");
  ASSERT_FALSE(unknown.has_value());
  EXPECT_NE(unknown.error().message().find("v5"), std::string::npos);
}

}  // namespace
}  // namespace cachalot::apps
