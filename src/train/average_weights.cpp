#include "train/average_weights.h"

#include <algorithm>
#include <optional>

#include "formats/weight_source.h"

namespace cachalot::train {

Result<ParameterStore> average_weights(std::span<const WeightedModel> models) {
  double total = 0;
  for (const WeightedModel& model : models) total += model.weight;
  if (!(total > 0)) return invalid_argument("average: expected a weight above 0, found none");
  std::optional<ParameterStore> mean;
  std::vector<std::vector<double>> sums;
  for (const WeightedModel& model : models) {
    CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                              formats::WeightSource::open(model.directory));
    CACHALOT_ASSIGN_OR_RETURN(ParameterStore store, ParameterStore::from_checkpoint(source));
    if (mean) CACHALOT_RETURN_IF_ERROR(mean->check_same(store, model.directory));
    if (!mean) {
      for (const Parameter& parameter : store.parameters())
        sums.emplace_back(parameter.master.size());
    }
    const ParameterStore& first = mean ? *mean : store;
    for (size_t p = 0; p < sums.size(); ++p) {
      const double share = model.weight / total;
      std::ranges::transform(
          sums[p], store.find(first.parameters()[p].info.name)->master, sums[p].begin(),
          [share](double sum, float value) { return sum + share * static_cast<double>(value); });
    }
    if (!mean) mean.emplace(std::move(store));
  }
  for (size_t p = 0; p < sums.size(); ++p) {
    std::ranges::transform(sums[p], mean->parameters()[p].master.begin(),
                           [](double sum) { return static_cast<float>(sum); });
  }
  return std::move(*mean);
}

}  // namespace cachalot::train
