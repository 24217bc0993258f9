#include "train/spectrum_metrics.h"

#include "optim/spectrum.h"

namespace cachalot::train {

MetricValues spectrum_metrics(device::ExecContext& ctx, const optim::Optimizer& optimizer,
                              int64_t max_elements) {
  struct Matrix {
    const optim::OptimizedParameter* parameter;
    int64_t rows;
    double largest = 0, stable_rank = 0;
  };
  std::vector<Matrix> matrices;
  for (size_t i = 0; i < optimizer.parameters().size(); ++i) {
    const optim::OptimizedParameter& parameter = optimizer.parameters()[i];
    const std::vector<optim::RowRange>& cuts = optimizer.audit().rows[i].rule.matrices;
    if (cuts.empty() || parameter.name.find("experts.") != std::string::npos) continue;
    if (cuts[0].rows * parameter.shape[1] <= max_elements)
      matrices.push_back({&parameter, cuts[0].rows});
  }
  ctx.pool->run(static_cast<int64_t>(matrices.size()), [&](int64_t i, int) {
    Matrix& matrix = matrices[static_cast<size_t>(i)];
    const int64_t columns = matrix.parameter->shape[1];
    const std::vector<double> values = optim::singular_values(
        {matrix.parameter->master, static_cast<size_t>(matrix.rows * columns)}, matrix.rows,
        columns);
    double squares = 0;
    for (const double value : values) squares += value * value;
    matrix.largest = values[0];
    matrix.stable_rank = values[0] > 0 ? squares / (values[0] * values[0]) : 0;
  });
  MetricValues out;
  for (const Matrix& matrix : matrices) {
    out.emplace_back("spectrum/" + matrix.parameter->name + "/max", matrix.largest);
    out.emplace_back("spectrum/" + matrix.parameter->name + "/stable_rank", matrix.stable_rank);
  }
  return out;
}

}  // namespace cachalot::train
