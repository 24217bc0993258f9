#include "post/batch_layout.h"

#include "data/keyed_permutation.h"

namespace cachalot::post {

std::vector<std::vector<CallAnswers>> batch_layout(std::span<const AnswerShape> answers,
                                                   const LayoutOptions& options) {
  const auto count = static_cast<int64_t>(answers.size());
  std::optional<data::KeyedPermutation> order;
  if (options.shuffle && count > 0) order.emplace(count, *options.shuffle);
  std::vector<std::vector<CallAnswers>> layout(static_cast<size_t>(options.mini_batches));
  for (int64_t m = 0; m < options.mini_batches; ++m) {
    std::vector<CallAnswers>& calls = layout[static_cast<size_t>(m)];
    int64_t rows = 0;
    const int64_t end = count * (m + 1) / options.mini_batches;
    for (int64_t i = count * m / options.mini_batches; i < end; ++i) {
      const int64_t number = order ? order->at(i) : i;
      const AnswerShape& answer = answers[static_cast<size_t>(number)];
      if (calls.empty() || rows + answer.num_rows > options.micro_batch_tokens ||
          answers[static_cast<size_t>(calls.back().front())].is_flat != answer.is_flat) {
        calls.emplace_back();
        rows = 0;
      }
      calls.back().push_back(number);
      rows += answer.num_rows;
    }
  }
  return layout;
}

}  // namespace cachalot::post
