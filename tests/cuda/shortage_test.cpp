// A GPU whose memory is out: what a step needs lies in the host's memory, and its kernels have the
// same bits there.
#include "ops/norm/rms_norm.h"
#include "tests/cuda/cuda_fixture.h"
#include "tests/cuda/gpu_context.h"

namespace cachalot::testing {
namespace {

class Shortage : public GpuTest {
 protected:
  // Takes what is free.
  void SetUp() override {
    GpuTest::SetUp();
    if (gpu_ == nullptr) return;
    for (int64_t size = int64_t{1} << 36; size >= int64_t{1} << 20; size /= 2) {
      while (true) {
        Result<device::Buffer> taken = device::Buffer::create(size, gpu_.get());
        if (!taken) break;
        taken_.push_back(*std::move(taken));
      }
    }
  }
  void TearDown() override { taken_.clear(); }

  std::vector<device::Buffer> taken_;
};

TEST_F(Shortage, AnOpRunsInTheHostsMemory) {
  constexpr int64_t kRows = 300, kColumns = 4096;
  Rng rng(5);
  const std::vector<float> x = random_floats(rng, kRows * kColumns);
  const auto norm = [&](device::ExecContext ctx, device::Arena& arena) {
    auto* from = arena.allocate<float>(kRows * kColumns);
    auto* to = arena.allocate<float>(kRows * kColumns);
    device::copy_bytes(ctx.gpu, from, x.data(), kRows * kColumns * 4);
    ops::rms_norm(ctx, {from, kColumns, nullptr, to, kColumns, kRows, kColumns, 1e-6f, true});
    std::vector<float> y(x.size());
    device::copy_bytes(ctx.gpu, y.data(), to, kRows * kColumns * 4);
    return y;
  };
  ThreadPool pool(1);
  device::Arena there(int64_t{1} << 20, gpu_.get()), here(int64_t{1} << 20);
  const std::vector<float> found = norm({&pool, &there, device::Isa::reference, gpu_.get()}, there);
  const Status shortage = gpu_->take_shortage();
  EXPECT_EQ(shortage.code(), StatusCode::resource_exhausted);
  EXPECT_NE(shortage.message().find("device memory: expected"), std::string::npos);
  expect_same(found, norm({&pool, &here, device::Isa::reference}, here), "rms_norm");
}

}  // namespace
}  // namespace cachalot::testing
