#include "post/judges.h"

#include "post/rubric.h"

namespace cachalot::post {
namespace {

// What sets judges' draws apart from the answers'.
constexpr uint64_t kSeed = 0x6a75646765730001;

}  // namespace

Result<Judges> Judges::create(const EpisodeFormat& format, std::span<const Episode> episodes,
                              const RolloutPlan& plan, const RolloutLog& log,
                              const JudgeOptions& options) {
  Judges judges(plan.num_answers());
  judges.plan_ = plan;
  judges.plan_.seed ^= kSeed;
  judges.plan_.groups.clear();
  judges.plan_.group_size = options.judgements;
  for (int64_t number = 0; number < plan.num_answers(); ++number) {
    const Episode& episode = episodes[static_cast<size_t>(number / plan.group_size)];
    const RolloutAnswer& answer = log.answers()[static_cast<size_t>(number)];
    if (!episode.task().rubric || answer.end != AnswerEnd::stop) continue;
    CACHALOT_ASSIGN_OR_RETURN(const data::Reply reply, episode.reply(answer));
    RlTask task;
    task.id = episode.task().id;
    task.rubric = episode.task().rubric;
    task.prompt = judge_prompt(*task.rubric, episode.task().prompt, reply.content);
    task.request.messages.emplace_back().content = task.prompt;
    if (options.is_constrained) task.schema = verdict_schema(*task.rubric);
    CACHALOT_ASSIGN_OR_RETURN(Episode asked,
                              Episode::create(format, std::move(task), options.effort));
    if (static_cast<int64_t>(asked.prompt().size()) > options.max_prompt_tokens) continue;
    judges.plan_.groups.push_back({asked.prompt(), options.max_new_tokens, asked.task().schema});
    judges.judged_.push_back(number);
    judges.episodes_.push_back(std::move(asked));
  }
  return judges;
}

Result<Judges::Scores> Judges::scores(const RolloutLog& log) const {
  Scores scores;
  scores.of_answers.resize(static_cast<size_t>(num_answers_));
  for (size_t g = 0; g < judged_.size(); ++g) {
    const Rubric& rubric = *episodes_[g].task().rubric;
    double sum = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < plan_.group_size; ++i) {
      const RolloutAnswer& judgement =
          log.answers()[g * static_cast<size_t>(plan_.group_size) + static_cast<size_t>(i)];
      ++scores.num_judgements;
      std::optional<std::vector<int64_t>> verdict;
      if (judgement.end == AnswerEnd::stop) {
        CACHALOT_ASSIGN_OR_RETURN(const data::Reply reply, episodes_[g].reply(judgement));
        verdict = parse_verdict(rubric, reply.content);
      }
      if (!verdict) {
        ++scores.num_unparseable;
        continue;
      }
      sum += rubric_score(rubric, *verdict);
      ++count;
    }
    if (count > 0)
      scores.of_answers[static_cast<size_t>(judged_[g])] = sum / static_cast<double>(count);
  }
  return scores;
}

}  // namespace cachalot::post
