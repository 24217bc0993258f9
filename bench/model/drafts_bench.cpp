#include "model/drafts_bench.h"

#include <fmt/format.h>

#include <array>
#include <vector>

#include "engine/engine.h"
#include "model/engine_clock.h"
#include "text/tokenizer.h"

namespace cachalot::bench {
namespace {

constexpr std::array<std::string_view, 8> kTexts = {
    "The old sailor looked at the sea for a long time before he spoke.",
    "To install the program, first read the file that comes with it. Then",
    "In the year of the great flood, the people of the valley went up",
    "The function returns the number of bytes that were read, or",
    "Once upon a time there was a king who had three daughters, and",
    "This chapter describes how a process is started, and what happens when",
    "It was late in the evening when the train came to the small station.",
    "The following options are understood. Each of them may be given"};

struct Workload {
  std::string_view name;
  double temperature;
  size_t sequences;
};
constexpr std::array<Workload, 3> kWorkloads = {
    {{"greedy", 0, 1}, {"sampled", 1, 1}, {"greedy, 8 at once", 0, 8}}};

struct Run {
  double seconds = 0;
  int64_t tokens = 0, drafted = 0, accepted = 0;
};

class Drafts {
 public:
  static Result<Drafts> create(const DraftsBenchOptions& options) {
    Drafts drafts(options);
    CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer,
                              text::Tokenizer::load(options.model + "/tokenizer.json"));
    for (const std::string_view text : kTexts) drafts.prompts_.push_back(tokenizer.encode(text));
    engine::EngineOptions engine_options;
    engine_options.model = {options.model, options.precision, "cpu", options.threads};
    engine_options.max_drafts = options.max_drafts;
    engine_options.clock = drafts.clock_;
    CACHALOT_ASSIGN_OR_RETURN(drafts.engine_, engine::Engine::create(engine_options));
    return drafts;
  }

  // The decoding, not the prompts. Both ways of a round write the same text.
  Result<Run> run(const Workload& workload, int64_t round, int64_t num_drafts) {
    Run run;
    Status failed;
    for (size_t i = 0; i < workload.sequences; ++i) {
      engine::Request request;
      request.prompt = prompts_[(static_cast<size_t>(round) + i) % prompts_.size()];
      request.sampling.temperature = workload.temperature;
      request.sampling.seed = static_cast<uint64_t>(round) * 100 + i;
      request.max_new_tokens = options_.new_tokens;
      request.num_drafts = num_drafts;
      request.on_event = [&](const engine::Event& event) {
        if (event.kind != engine::Event::Kind::finished) return true;
        if (const auto& result = *event.result; result) {
          run.tokens += static_cast<int64_t>(result->ids.size());
          run.drafted += result->drafted;
          run.accepted += result->accepted;
        } else {
          failed = result.error();
        }
        return true;
      };
      CACHALOT_RETURN_IF_ERROR(engine_->submit(std::move(request)).error());
    }
    engine_->step();  // the prompts'
    const double start = clock_();
    while (engine_->step()) {
    }
    run.seconds = clock_() - start;
    CACHALOT_RETURN_IF_ERROR(failed);
    return run;
  }

 private:
  explicit Drafts(const DraftsBenchOptions& options)
      : options_(options), clock_(clock_of(options.cpu_clock)) {}

  DraftsBenchOptions options_;
  Clock clock_;
  std::vector<std::vector<int32_t>> prompts_;
  std::unique_ptr<engine::Engine> engine_;
};

}  // namespace

Result<std::string> run_drafts_bench(const DraftsBenchOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(Drafts drafts, Drafts::create(options));
  std::string json = "{\"bench\": \"drafts\", \"workloads\": [";
  for (const Workload& workload : kWorkloads) {
    Run without, with;
    std::vector<double> ratios;
    for (int64_t round = 0; round < options.rounds; ++round) {
      std::array<Run, 2> runs;  // without, with
      for (const int64_t second : {0, 1}) {
        const int64_t which = (round + second) % 2;
        CACHALOT_ASSIGN_OR_RETURN(runs[static_cast<size_t>(which)],
                                  drafts.run(workload, round, which == 0 ? 0 : options.max_drafts));
      }
      ratios.push_back(runs[0].seconds / runs[1].seconds);
      for (auto [sum, run] : {std::pair(&without, &runs[0]), std::pair(&with, &runs[1])}) {
        sum->seconds += run->seconds;
        sum->tokens += run->tokens;
        sum->drafted += run->drafted;
        sum->accepted += run->accepted;
      }
    }
    json += fmt::format(
        "{}{{\"name\": \"{}\", \"tokens_per_s_without\": {:.1f}, \"tokens_per_s_with\": {:.1f}, "
        "\"ratio\": {:.3f}, \"drafted\": {}, \"accepted\": {}}}",
        &workload == kWorkloads.data() ? "" : ", ", workload.name,
        static_cast<double>(without.tokens) / without.seconds,
        static_cast<double>(with.tokens) / with.seconds, quantile(ratios, 0.5), with.drafted,
        with.accepted);
  }
  return json + "]}";
}

}  // namespace cachalot::bench
