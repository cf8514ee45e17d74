// Host side of fill_smoothly on the GPU: workspace and launches.

#include "fill_smoothly.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "../ops.h"
#include "launch.cuh"

namespace patchswap {

// Workspace: for every channel and sample about 8/3 bytes a pixel, and for every sample 4/3 more.
void fill_smoothly_cuda(const FillCall& call) {
  if (call.result.numel() == 0) return;
  const int64_t height = call.image.size(2), width = call.image.size(3);
  STD_TORCH_CHECK(height * width < kMostPixels,
                  "patchswap.fill_smoothly: image must have fewer than 2^30 cells in each channel; got ", height, " x ",
                  width);
  const torch::stable::accelerator::DeviceGuard guard(call.result.get_device_index());
  const cudaStream_t stream = current_stream(call.result);
  FillPicture picture{.image = call.image.const_data_ptr<float>(),
                      .result = call.result.mutable_data_ptr<float>(),
                      .hole = call.hole.const_data_ptr<bool>(),
                      .image_strides = {},
                      .result_strides = {},
                      .batch = call.image.size(0),
                      .channels = call.image.size(1)};
  for (int i = 0; i < 4; i++) {
    picture.image_strides[i] = call.image.stride(i);
    picture.result_strides[i] = call.result.stride(i);
  }
  FillPlan plan(picture, static_cast<int>(height), static_cast<int>(width));
  const int64_t shape[] = {plan.numbers};
  Tensor workspace = torch::stable::new_empty(call.result, {shape, 1});
  plan.place(picture, workspace.mutable_data_ptr<float>());

  const int64_t planes = picture.planes();
  for (int first = 0; first < plan.last; first += kPullLevels) {
    const FillPull pull(plan, first);
    start(pull_levels, planes * pull.levels[0].tiles(kPullTile), kPullThreads, kPullShared, stream, picture, pull);
  }
  start(fill_top, planes, kTopThreads, kTopShared, stream, picture, plan.levels[plan.last], plan.levels_above);
  for (int n = plan.last - 1; n >= 0; n--) {
    const FillLevel& level = plan.levels[n];
    start(push_level, planes * level.tiles(kPushTile), kPushThreads, kPushShared, stream, picture, level,
          plan.levels[n + 1]);
  }
}

}  // namespace patchswap
