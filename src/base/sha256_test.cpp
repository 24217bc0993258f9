#include "base/sha256.h"

#include <gtest/gtest.h>

namespace cachalot {
namespace {

// FIPS 180-4's examples.
TEST(Sha256, KnownDigests) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, PartsAreTheWhole) {
  const std::string text(1000, 'a');
  Sha256 parts;
  for (size_t at = 0; at < text.size(); at += 37)
    parts.add(std::as_bytes(std::span(text).subspan(at, std::min<size_t>(37, text.size() - at))));
  EXPECT_EQ(parts.hex(), sha256_hex(text));
}

}  // namespace
}  // namespace cachalot
