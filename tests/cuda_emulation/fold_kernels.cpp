// The kernels of fold and its gradients as functions that Python calls, for test_fold_emulated.py. With
// PATCHSWAP_ONE_VARIANT only float32 and patches of 3 x 3, which is quick to compile.

#if !defined(PATCHSWAP_ONE_VARIANT)
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/fold.cuh"

namespace {

using namespace patchswap;

// The layout is that of the ctypes class of the same name. weights is null where all copies count the same. With runs,
// covers is the workspace that count_runs fills. Of the gradient with respect to weights the source is that of fold's
// result, and key and output are given.
struct Call {
  const int64_t* index;
  const void* source;
  const void* base;
  void* result;
  const void* weights;
  void* covers;
  const void* key;
  const void* output;
  int64_t batch, channels, height, width, key_height, key_width;
  int32_t patch_size, ranks, dtype;  // dtype: 0 float32, 1 float16, 2 bfloat16, 3 float64
  int32_t is_channels_last, is_laid, is_gradient_of_weights;
  double most_weight;
};

template <class Kernel>
void run(const emulation::Schedule& schedule, int64_t blocks, int threads, int shared_bytes, const Kernel& kernel) {
  if (blocks > 0) emulation::emulate(schedule, static_cast<int>(blocks), threads, shared_bytes, kernel);
}

int patches_along(int64_t size, int patch_size) {
  return size < patch_size ? 0 : static_cast<int>(size) - patch_size + 1;
}

template <int P, class Element, class Weights>
void run_call(const emulation::Schedule& schedule, const Call& call, const Runs* runs, const Weights& weights) {
  using Sum = std::conditional_t<std::is_same_v<Element, double>, double, float>;
  Chosen shape = {};
  shape.index = call.index;
  shape.batch = call.batch;
  shape.height = static_cast<int>(call.height);
  shape.width = static_cast<int>(call.width);
  shape.key_height = static_cast<int>(call.key_height);
  shape.key_width = static_cast<int>(call.key_width);
  shape.ranks = call.ranks;
  shape.patch_size = call.patch_size;
  shape.rows = patches_along(call.height, call.patch_size);
  shape.columns = patches_along(call.width, call.patch_size);
  shape.key_rows = patches_along(call.key_height, call.patch_size);
  shape.key_columns = patches_along(call.key_width, call.patch_size);
  const int64_t queries = shape.layers() * shape.queries(), keys = shape.layers() * shape.keys();
  if constexpr (!std::is_same_v<Weights, EqualWeights>) {
    if (call.is_gradient_of_weights) {
      FoldWeightsWork<Element, Sum> work = {};
      work.shape = shape;
      work.channels = call.channels;
      work.grad = static_cast<const Element*>(call.source);
      work.key = static_cast<const Element*>(call.key);
      work.output = static_cast<const Element*>(call.output);
      work.result = static_cast<Sum*>(call.result);
      run(schedule, run_blocks(queries), kRunThreads, 0, [&] { fold_weights_backward<P, Sum>(work, weights); });
      return;
    }
  }
  const int64_t cells = call.height * call.width, key_cells = call.key_height * call.key_width;
  FoldWork<Element> work = {};
  work.shape = shape;
  work.tiles = cell_tiles(runs == nullptr ? cells : key_cells, call.channels);
  work.source = static_cast<const Element*>(call.source);
  work.base = static_cast<const Element*>(call.base);
  work.result = static_cast<Element*>(call.result);
  work.is_channels_last = call.is_channels_last;
  work.is_laid = call.is_laid;
  const int64_t blocks = work.tiles.blocks(call.batch);
  if (runs == nullptr) {
    run(schedule, blocks, work.tiles.threads, 0, [&] { fold<P, Sum>(work, weights); });
    return;
  }
  auto* const covers = static_cast<typename Weights::Cover*>(call.covers);
  run(schedule, run_blocks(std::max(call.batch * cells, queries)), kRunThreads, 0,
      [&] { count_runs<P>(shape, *runs, weights, covers); });
  run(schedule, run_blocks(keys), kRunThreads, kRunShared, [&] { place_runs(shape, *runs); });
  run(schedule, run_blocks(queries), kRunThreads, 0, [&] { list_runs(shape, *runs); });
  run(schedule, run_blocks(queries), kRunThreads, 0, [&] { sort_runs(shape, *runs); });
  run(schedule, blocks, work.tiles.threads, 0, [&] { fold_backward<P, Sum>(work, *runs, weights, covers); });
}

template <int P, class Element>
void run_weights(const emulation::Schedule& schedule, const Call& call, const Runs* runs) {
  using Sum = std::conditional_t<std::is_same_v<Element, double>, double, float>;
  if (call.weights != nullptr) {
    run_call<P, Element>(schedule, call, runs,
                         GivenWeights<Sum>{static_cast<const Sum*>(call.weights), static_cast<Sum>(call.most_weight)});
  } else {
    run_call<P, Element>(schedule, call, runs, EqualWeights());
  }
}

template <class Element>
void run_patch_size(const emulation::Schedule& schedule, const Call& call, const Runs* runs) {
  if (call.patch_size == 3) run_weights<3, Element>(schedule, call, runs);
#if !defined(PATCHSWAP_ONE_VARIANT)
  if (call.patch_size == 1) run_weights<1, Element>(schedule, call, runs);
  if (call.patch_size == 5) run_weights<5, Element>(schedule, call, runs);
#endif
  if (call.patch_size % 2 == 0 || call.patch_size == 7) run_weights<0, Element>(schedule, call, runs);
}

}  // namespace

extern "C" {

// fold; with runs its gradient with respect to key, or that with respect to weights where call says so. Null, or what
// went wrong; the text lives until the next call.
const char* run_fold(const emulation::Schedule* schedule, const Call* call, const Runs* runs) {
  return emulation::message_of([&] {
    if (call->dtype == 0) run_patch_size<float>(*schedule, *call, runs);
#if !defined(PATCHSWAP_ONE_VARIANT)
    if (call->dtype == 1) run_patch_size<torch::headeronly::Half>(*schedule, *call, runs);
    if (call->dtype == 2) run_patch_size<torch::headeronly::BFloat16>(*schedule, *call, runs);
    if (call->dtype == 3) run_patch_size<double>(*schedule, *call, runs);
#endif
  });
}

int64_t call_size() { return sizeof(Call); }
int64_t runs_size() { return sizeof(Runs); }

}  // extern "C"
