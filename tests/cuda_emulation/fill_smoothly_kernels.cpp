// The kernels of fill_smoothly as a function that Python calls, for test_fill_smoothly_emulated.py.

#include "cuda/fill_smoothly.cuh"

namespace {

using namespace patchswap;

template <class Kernel>
void run(const emulation::Schedule& schedule, int64_t blocks, int threads, int shared_bytes, const Kernel& kernel) {
  emulation::emulate(schedule, static_cast<int>(blocks), threads, shared_bytes, kernel);
}

}  // namespace

extern "C" {

int64_t picture_size() { return sizeof(FillPicture); }

// Numbers that the workspace holds.
int64_t workspace_numbers(const FillPicture* picture, int height, int width) {
  return FillPlan(*picture, height, width).numbers;
}

// Launches as in csrc/cuda/fill_smoothly.cu. Null, or what went wrong; the text lives until the next call.
const char* run_fill_smoothly(const emulation::Schedule* schedule, const FillPicture* given, int height, int width,
                              float* workspace) {
  return emulation::message_of([&] {
    const FillPicture picture = *given;
    FillPlan plan(picture, height, width);
    plan.place(picture, workspace);
    const int64_t planes = picture.planes();
    for (int first = 0; first < plan.last; first += kPullLevels) {
      const FillPull pull(plan, first);
      run(*schedule, planes * pull.levels[0].tiles(kPullTile), kPullThreads, kPullShared,
          [&] { pull_levels(picture, pull); });
    }
    run(*schedule, planes, kTopThreads, kTopShared,
        [&] { fill_top(picture, plan.levels[plan.last], plan.levels_above); });
    for (int n = plan.last - 1; n >= 0; n--) {
      run(*schedule, planes * plan.levels[n].tiles(kPushTile), kPushThreads, kPushShared,
          [&] { push_level(picture, plan.levels[n], plan.levels[n + 1]); });
    }
  });
}

}  // extern "C"
