#include "text/detokenizer.h"

namespace cachalot::text {
namespace {

constexpr std::string_view kReplacement = "\uFFFD";

uint8_t sequence_length(unsigned char first) {
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return 2;
  if (first >= 0xE0 && first <= 0xEF) return 3;
  if (first >= 0xF0 && first <= 0xF4) return 4;
  return 0;
}

}  // namespace

// The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
bool Utf8Stream::extends(unsigned char byte) const {
  unsigned low = 0x80, high = 0xBF;
  if (size_ == 1) {
    switch (static_cast<unsigned char>(held_[0])) {
      case 0xE0: low = 0xA0; break;
      case 0xED: high = 0x9F; break;
      case 0xF0: low = 0x90; break;
      case 0xF4: high = 0x8F; break;
      default: break;
    }
  }
  return byte >= low && byte <= high;
}

void Utf8Stream::push(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (size_ > 0 && !extends(byte)) finish(out);
    if (size_ == 0) length_ = sequence_length(byte);
    if (length_ == 1) {
      out += c;
    } else if (length_ == 0) {
      out += kReplacement;
    } else {
      held_[size_++] = c;
      if (size_ == length_) {
        out.append(held_.data(), size_);
        size_ = 0;
      }
    }
  }
}

void Utf8Stream::finish(std::string& out) {
  if (size_ > 0) out += kReplacement;
  size_ = 0;
}

Detokenizer::Detokenizer(const Tokenizer& tokenizer, Controls controls) : tokenizer_(&tokenizer) {
  if (controls == Controls::shown) return;
  for (const AddedToken& token : tokenizer.added_tokens()) {
    if (token.content.starts_with("<\uFF5C") || token.content.starts_with("<|"))
      hidden_.insert(token.id);
  }
}

Status Detokenizer::push(int32_t id, std::string& out) {
  if (hidden_.contains(id)) return {};
  CACHALOT_ASSIGN_OR_RETURN(const std::string_view bytes, tokenizer_->token_bytes(id));
  stream_.push(bytes, out);
  return {};
}

}  // namespace cachalot::text
