// Host side of fold and its gradients on the GPU: workspace and launches.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../dtype.h"
#include "../ops.h"
#include "fold.cuh"
#include "launch.cuh"
#include "runs.cuh"

namespace patchswap {
namespace {

Chosen shape_of(const FoldCall& call) {
  const auto narrow = [](int64_t size) { return static_cast<int>(size); };
  STD_TORCH_CHECK(call.height * call.width < kMostCells && call.key_height * call.key_width < kMostCells,
                  "patchswap.fold: a map must have fewer than 2^30 cells in each channel; got ", call.height, " x ",
                  call.width, " and ", call.key_height, " x ", call.key_width);
  return {.index = call.index.const_data_ptr<int64_t>(),
          .batch = call.batch,
          .height = narrow(call.height),
          .width = narrow(call.width),
          .key_height = narrow(call.key_height),
          .key_width = narrow(call.key_width),
          .ranks = static_cast<int>(call.ranks),
          .rows = narrow(call.rows),
          .columns = narrow(call.columns),
          .key_rows = narrow(call.key_rows),
          .key_columns = narrow(call.key_columns),
          .patch_size = static_cast<int>(call.patch_size)};
}

template <class Element>
FoldWork<Element> work_of(const FoldCall& call) {
  return {.shape = shape_of(call),
          .tiles = cell_tiles(call.result.size(2) * call.result.size(3), call.channels),
          .source = call.source.const_data_ptr<Element>(),
          .base = call.base ? call.base->const_data_ptr<Element>() : nullptr,
          .result = call.result.mutable_data_ptr<Element>(),
          .is_channels_last = call.source.stride(1) == 1,
          .is_laid = call.is_laid};
}

template <class Weight>
GivenWeights<Weight> given_weights(const FoldCall& call) {
  return {.weights = call.weights->const_data_ptr<Weight>(), .most = static_cast<Weight>(call.most_weight())};
}

// Calls function(weights) with an EqualWeights or a GivenWeights.
template <class Weight, class Function>
void with_weights(const FoldCall& call, Function function) {
  if (call.weights) {
    function(given_weights<Weight>(call));
  } else {
    function(EqualWeights{});
  }
}

}  // namespace

void fold_cuda(const FoldCall& call) {
  if (call.result.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.result.get_device_index());
  const cudaStream_t stream = current_stream(call.result);
  with_element_type(call.source.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    with_usual_patch_size(call.patch_size, [&](auto patch_size) {
      constexpr int kPatchSize = decltype(patch_size)::value;
      const FoldWork<Element> work = work_of<Element>(call);
      with_weights<Accumulate<Element>>(call, [&](auto weights) {
        start(fold<kPatchSize, Accumulate<Element>, Element, decltype(weights)>, work.tiles.blocks(call.batch),
              work.tiles.threads, 0, stream, work, weights);
      });
    });
  });
}

// Workspace: 12 bytes for every key patch and for every query, in each rank; 4 for every cell of the output, 8 with
// float64 weights.
void fold_backward_cuda(const FoldCall& call) {
  using torch::headeronly::ScalarType;
  if (call.result.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.result.get_device_index());
  const cudaStream_t stream = current_stream(call.result);
  const Chosen shape = shape_of(call);
  const int64_t cells = call.batch * call.height * call.width;
  Tensor covers = new_array(call.index, cells, call.weights ? call.weights->scalar_type() : ScalarType::Int);
  const RunsMemory memory(call.index, shape, stream);
  const Runs runs = memory.runs();
  with_element_type(call.source.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    using Sum = Accumulate<Element>;
    with_usual_patch_size(call.patch_size, [&](auto patch_size) {
      constexpr int kPatchSize = decltype(patch_size)::value;
      with_weights<Sum>(call, [&](auto weights) {
        using Weights = decltype(weights);
        auto* const cover = covers.mutable_data_ptr<typename Weights::Cover>();
        start(count_runs<kPatchSize, Weights>, run_blocks(std::max(cells, call.index.numel())), kRunThreads, 0, stream,
              shape, runs, weights, cover);
        order_runs(shape, runs, stream);
        const FoldWork<Element> work = work_of<Element>(call);
        start(fold_backward<kPatchSize, Sum, Element, Weights>, work.tiles.blocks(call.batch), work.tiles.threads, 0,
              stream, work, runs, weights, static_cast<const typename Weights::Cover*>(cover));
      });
    });
  });
}

void fold_weights_backward_cuda(const FoldWeightsCall& work) {
  const FoldCall& call = work.call;
  if (call.result.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.result.get_device_index());
  const cudaStream_t stream = current_stream(call.result);
  with_element_type(call.source.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    using Sum = Accumulate<Element>;
    const GivenWeights<Sum> weights = given_weights<Sum>(call);
    const FoldWeightsWork<Element, Sum> maps{.shape = shape_of(call),
                                             .channels = call.channels,
                                             .grad = call.source.const_data_ptr<Element>(),
                                             .key = work.key.const_data_ptr<Element>(),
                                             .output = work.output.const_data_ptr<Element>(),
                                             .result = call.result.mutable_data_ptr<Sum>()};
    with_usual_patch_size(call.patch_size, [&](auto patch_size) {
      constexpr int kPatchSize = decltype(patch_size)::value;
      start(fold_weights_backward<kPatchSize, Sum, Element>, run_blocks(call.index.numel()), kRunThreads, 0, stream,
            maps, weights);
    });
  });
}

}  // namespace patchswap
