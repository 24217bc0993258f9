#include "post/sequence_match.h"

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cachalot::post {
namespace {

constexpr size_t kAutojunkLength = 200;

using Characters = std::vector<uint32_t>;

Characters characters(std::string_view text) {
  constexpr uint32_t kStrayByte = 0x110000;  // above every code point
  Characters out;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const size_t length = byte < 0x80   ? 1
                          : byte < 0xC0 ? 0
                          : byte < 0xE0 ? 2
                          : byte < 0xF0 ? 3
                          : byte < 0xF8 ? 4
                                        : 0;
    uint32_t value = length == 1 ? byte : byte & (0x7Fu >> length);
    bool whole = length != 0 && i + length <= text.size();
    for (size_t k = 1; whole && k < length; ++k) {
      const auto next = static_cast<uint8_t>(text[i + k]);
      whole = (next & 0xC0) == 0x80;
      value = value << 6 | (next & 0x3F);
    }
    out.push_back(whole ? value : kStrayByte + byte);
    i += whole ? length : 1;
  }
  return out;
}

class Matcher {
 public:
  Matcher(const Characters& a, const Characters& b, Autojunk autojunk)
      : a_(a), b_(b), runs_(b.size() + 1), next_runs_(b.size() + 1) {
    for (size_t j = 0; j < b.size(); ++j) places_[b[j]].push_back(j);
    if (autojunk == Autojunk::on && b.size() >= kAutojunkLength) {
      std::erase_if(places_,
                    [&](const auto& place) { return place.second.size() > b.size() / 100 + 1; });
    }
  }

  size_t num_matched() {
    size_t matched = 0;
    std::vector<Part> parts = {{0, a_.size(), 0, b_.size()}};
    while (!parts.empty()) {
      const Part part = parts.back();
      parts.pop_back();
      const Block block = longest_block(part);
      if (block.size == 0) continue;
      matched += block.size;
      parts.push_back({part.a_first, block.a, part.b_first, block.b});
      parts.push_back({block.a + block.size, part.a_last, block.b + block.size, part.b_last});
    }
    return matched;
  }

 private:
  struct Part {
    size_t a_first, a_last, b_first, b_last;
  };
  struct Block {
    size_t a, b, size;
  };

  Block longest_block(const Part& part) {
    Block best{part.a_first, part.b_first, 0};
    // runs_[j + 1]: length of the common run that ends at b[j] and the last character of a.
    std::vector<size_t> touched, next_touched;
    for (size_t i = part.a_first; i < part.a_last; ++i) {
      next_touched.clear();
      if (const auto found = places_.find(a_[i]); found != places_.end()) {
        for (const size_t j : found->second) {
          if (j < part.b_first) continue;
          if (j >= part.b_last) break;
          const size_t run = runs_[j] + 1;
          next_runs_[j + 1] = run;
          next_touched.push_back(j + 1);
          if (run > best.size) best = {i + 1 - run, j + 1 - run, run};
        }
      }
      for (const size_t j : touched) runs_[j] = 0;
      std::swap(runs_, next_runs_);
      std::swap(touched, next_touched);
    }
    for (const size_t j : touched) runs_[j] = 0;
    return extended(best, part);
  }

  Block extended(Block block, const Part& part) const {
    while (block.a > part.a_first && block.b > part.b_first && a_[block.a - 1] == b_[block.b - 1]) {
      --block.a, --block.b, ++block.size;
    }
    while (block.a + block.size < part.a_last && block.b + block.size < part.b_last &&
           a_[block.a + block.size] == b_[block.b + block.size]) {
      ++block.size;
    }
    return block;
  }

  const Characters& a_;
  const Characters& b_;
  std::unordered_map<uint32_t, std::vector<size_t>> places_;  // in b, ascending
  std::vector<size_t> runs_, next_runs_;
};

}  // namespace

double match_ratio(std::string_view a, std::string_view b, Autojunk autojunk) {
  const Characters left = characters(a), right = characters(b);
  const size_t length = left.size() + right.size();
  if (length == 0) return 1;
  return 2.0 * static_cast<double>(Matcher(left, right, autojunk).num_matched()) /
         static_cast<double>(length);
}

double mrcr_score(std::string_view response, std::string_view answer, std::string_view prefix) {
  if (!response.starts_with(prefix)) return 0;
  response.remove_prefix(prefix.size());
  if (answer.starts_with(prefix)) answer.remove_prefix(prefix.size());
  return match_ratio(response, answer);
}

}  // namespace cachalot::post
