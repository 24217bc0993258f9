#include "grammar/character_steps.h"

#include <algorithm>

namespace cachalot::grammar {

bool CharacterSteps::add(SetId set, std::vector<SetId>& reached) {
  if (set == Pushdown::kDead) return false;
  if (std::find(reached.begin(), reached.end(), set) == reached.end()) reached.push_back(set);
  return true;
}

bool CharacterSteps::take_any(SetId set, std::vector<SetId>& reached) {
  done_.clear();
  for (uint32_t c = 0; c < 0x80; ++c) {
    if (is_in(class_, c) && !add(pushdown_.step(set, static_cast<uint8_t>(c)), reached))
      return false;
  }
  if (class_ == CharacterClass::word) return true;  // it is ASCII
  for (uint32_t lead = 0xC2; lead <= 0xF4; ++lead) {
    const SetId next = pushdown_.step(set, static_cast<uint8_t>(lead));
    const int more = lead < 0xE0 ? 0 : lead < 0xF0 ? 1 : 2;
    const uint8_t first = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const uint8_t last = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    const uint32_t bits = lead & (0x1Fu >> more);
    if (!take_rest(next, bits, first, last, more, reached)) return false;
  }
  return true;
}

bool CharacterSteps::take_rest(SetId set, uint32_t code_point, uint8_t first, uint8_t last,
                               int more, std::vector<SetId>& reached) {
  if (set == Pushdown::kDead) return false;
  // The one character beyond ASCII that no class has is looked for byte by byte.
  constexpr uint32_t kMissing = 0xFF5C;
  const bool may_miss = code_point == kMissing >> (6 * (more + 1));
  const bool is_any = first == 0x80 && last == 0xBF && !may_miss;
  if (is_any) {
    const std::pair key(set, more);
    if (std::find(done_.begin(), done_.end(), key) != done_.end()) return true;
    done_.push_back(key);
  }
  for (uint32_t byte = first; byte <= last; ++byte) {
    const uint32_t bits = code_point << 6 | (byte & 0x3F);
    if (more == 0 && bits == kMissing) continue;
    const SetId next = pushdown_.step(set, static_cast<uint8_t>(byte));
    if (more == 0 ? !add(next, reached) : !take_rest(next, bits, 0x80, 0xBF, more - 1, reached))
      return false;
  }
  return true;
}

}  // namespace cachalot::grammar
