// What the fuzz targets of grammars share: a grammar that compiles is walked at random.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/rng.h"
#include "grammar/pushdown.h"

namespace cachalot::grammar {

// Texts that the grammar takes to their ends; none if it does not compile. Wherever a text has not
// ended, some byte must lead on, unless the step is larger than is allowed.
inline std::vector<std::string> random_texts(const GrammarSource& source) {
  constexpr int kWalks = 4;
  constexpr size_t kMaxBytes = 120;
  constexpr uint64_t kMaxWork = 300'000;
  std::vector<std::string> texts;
  auto automaton = Automaton::compile(source);
  if (!automaton) return texts;
  Pushdown pushdown(std::make_shared<const Automaton>(*std::move(automaton)));
  for (uint64_t walk = 0; walk < kWalks; ++walk) {
    RngStream rng(1, RngPurpose::data, walk);
    SetId set = pushdown.start();
    std::string text;
    while (text.size() < kMaxBytes && pushdown.work() < kMaxWork) {
      std::vector<uint8_t> bytes;
      for (uint32_t byte = 0; byte < 256; ++byte) {
        if (pushdown.step(set, static_cast<uint8_t>(byte)) != Pushdown::kDead)
          bytes.push_back(static_cast<uint8_t>(byte));
      }
      if (pushdown.may_end(set)) {
        if (bytes.empty() || rng.next_u32() % 4 == 0) break;
      } else if (bytes.empty()) {
        CACHALOT_CHECK(pushdown.num_configurations(set) > kMaxConfigurations / 64);
        break;
      }
      // What a mask looks at besides.
      for (const Pushdown::Part& part : pushdown.parts(pushdown.within_horizon(set, 16), true))
        pushdown.after(part.base);
      const uint8_t byte = bytes[rng.next_u32() % bytes.size()];
      text += static_cast<char>(byte);
      set = pushdown.step(set, byte);
    }
    if (pushdown.may_end(set)) texts.push_back(text);
  }
  return texts;
}

}  // namespace cachalot::grammar
