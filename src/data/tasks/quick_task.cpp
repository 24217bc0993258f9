// Quick instructions, whose answers follow from words of the conversation.
#include <fmt/format.h>

#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {

struct Domain {
  std::string name;
  std::vector<std::string> topics;
};
const std::vector<Domain>& domains() {
  static const std::vector<Domain> kDomains = {
      {"mathematics", {"fractions", "primes", "triangles", "equations", "angles", "sums"}},
      {"cooking", {"bread", "soup", "rice", "cheese", "salt", "cakes"}},
      {"travel", {"trains", "hotels", "maps", "ships", "roads", "tickets"}},
      {"music", {"songs", "pianos", "drums", "choirs", "notes", "violins"}},
      {"nature", {"rivers", "birds", "trees", "clouds", "stones", "seeds"}},
      {"computers", {"files", "programs", "keyboards", "networks", "disks", "errors"}}};
  return kDomains;
}

// Words beside the matter, more with difficulty.
std::string filler(int difficulty, Draw& draw) {
  std::string text;
  for (int i = 0; i < difficulty; ++i) text += " " + draw.pick(plain_words());
  return text.empty() ? text : " I think of" + text + ".";
}

Task make(int difficulty, Draw& draw) {
  const Domain& domain = draw.pick(domains());
  const std::string topic = draw.pick(domain.topics);
  Task task;
  const int64_t kind = draw.between(0, 2);
  if (kind == 0) {
    const std::vector<std::string> lasting = {"How do {} work?", "What are {}?",
                                              "Why do people like {}?", "Explain {} to me."};
    const std::vector<std::string> fresh = {"What is new about {} today?",
                                            "Which {} are in the news this week?",
                                            "What do {} cost now?", "Find the latest on {}."};
    const bool searches = draw.coin();
    task.quick = "action";
    task.prompt = fmt::format(fmt::runtime(draw.pick(searches ? fresh : lasting)), topic);
    task.answer.content = searches ? "search" : "answer";
  } else {
    const std::vector<std::string> asked = {"Tell me about {}.", "What should I know of {}?",
                                            "I have a question on {}.", "Help me with {}."};
    task.prompt = fmt::format(fmt::runtime(draw.pick(asked)), topic);
    task.quick = kind == 1 ? "domain" : "title";
    task.answer.content = kind == 1 ? domain.name : "About " + topic;
    if (kind == 2) task.said = draw.pick(std::vector<std::string>{"Gladly.", "Of course.", "Yes."});
  }
  task.prompt += filler(difficulty, draw);
  return task;
}

}  // namespace

// One of action, domain and title; difficulty words stand beside the matter.
Task make_quick(int difficulty, Draw draw) {
  Task task = make(difficulty, draw);
  task.check = [right = task.answer.content](const Reply& reply) -> Verdict {
    if (reply.content == right) return {.correct = true, .why = {}};
    return {.correct = false, .why = fmt::format("expected {}, found {}", right, reply.content)};
  };
  return task;
}

}  // namespace cachalot::data
