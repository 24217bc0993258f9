// Which prompt family a checkpoint's prompts take.
// Source  reference/chat 0.
#include "text/prompt_ids.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/test_data.h"
#include "text/chat_literals.h"

namespace cachalot::text {
namespace {

TEST(PromptFamily, IsTheTokenizersUnlessItIsNamed) {
  const std::string path = test_data("../models/nano/tokenizer.json");
  Tokenizer tokenizer = Tokenizer::from_json(read_text_file(path).value(), path).value();
  EXPECT_EQ(prompt_family(tokenizer, "").value(), PromptFamily::v4);
  // v4 and v4-0731 have one tokenizer.
  EXPECT_EQ(prompt_family(tokenizer, "v4-0731").value(), PromptFamily::v4_0731);
  AddedToken system;
  system.id = tokenizer.vocab_size();
  system.content = kSystemToken;
  ASSERT_TRUE(tokenizer.add_tokens({&system, 1}).ok());
  EXPECT_EQ(prompt_family(tokenizer, "").value(), PromptFamily::v4_1);
  EXPECT_EQ(prompt_family(tokenizer, "v4").value(), PromptFamily::v4);
  const auto unknown = prompt_family(tokenizer, "v5");
  ASSERT_FALSE(unknown.has_value());
  EXPECT_NE(unknown.error().message().find("v5"), std::string::npos);
}

}  // namespace
}  // namespace cachalot::text
