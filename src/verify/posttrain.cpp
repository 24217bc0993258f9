#include "verify/posttrain.h"

#include <fmt/format.h>

#include <filesystem>

#include "verify/posttrain_eval.h"
#include "verify/posttrain_grpo.h"
#include "verify/posttrain_opd.h"
#include "verify/posttrain_sft.h"

namespace cachalot::verify {

Result<GoldenReport> verify_posttrain(const PosttrainOptions& options) {
  const std::filesystem::path folder(options.directory);
  GoldenReport report;
  CACHALOT_RETURN_IF_ERROR(verify_estimators((folder / "eval").string(), report));
  ThreadPool pool(options.threads);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<PosttrainModel> model,
                            PosttrainModel::load(ctx, options.model));
  CACHALOT_RETURN_IF_ERROR(verify_grpo((folder / "grpo").string(), *model, report));
  CACHALOT_RETURN_IF_ERROR(verify_sft((folder / "sft").string(), *model, report));
  CACHALOT_RETURN_IF_ERROR(verify_opd((folder / "opd").string(), options.model, *model, report));
  fmt::print("{} checks, {} failed ({}, {} threads)\n", report.num_checks(), report.failed().size(),
             device::isa_name(ctx.isa), pool.num_threads());
  return report;
}

}  // namespace cachalot::verify
