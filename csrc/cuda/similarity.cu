// Host side of similarity and its gradients on the GPU: workspace and launches.

#include "similarity.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <type_traits>

#include "../dtype.h"
#include "../ops.h"
#include "launch.cuh"
#include "runs.cuh"

namespace patchswap {
namespace {

template <class Element>
MapView<Element> view(const Tensor& features) {
  const int64_t height = features.size(2), width = features.size(3);
  STD_TORCH_CHECK(height * width < kMostCells,
                  "patchswap.similarity: a map must have fewer than 2^30 cells in each channel; got ", height, " x ",
                  width);
  return {.features = features.const_data_ptr<Element>(),
          .strides = {features.stride(0), features.stride(1), features.stride(2), features.stride(3)},
          .height = static_cast<int>(height),
          .width = static_cast<int>(width)};
}

Chosen shape_of(const SimilarityCall& call) {
  const auto narrow = [](int64_t size) { return static_cast<int>(size); };
  return {.index = call.index.const_data_ptr<int64_t>(),
          .batch = call.batch,
          .height = narrow(call.query.size(2)),
          .width = narrow(call.query.size(3)),
          .key_height = narrow(call.key.size(2)),
          .key_width = narrow(call.key.size(3)),
          .ranks = narrow(call.ranks),
          .rows = narrow(call.rows),
          .columns = narrow(call.columns),
          .key_rows = narrow(call.key_rows),
          .key_columns = narrow(call.key_columns),
          .patch_size = narrow(call.patch_size)};
}

// Calls work(SimilarityWork). Workspace: a number for each patch of both maps, and for each cell of the larger one.
template <class Work>
void with_norms(const SimilarityCall& call, cudaStream_t stream, const Work& work) {
  const int64_t query_patches = call.batch * call.rows * call.columns;
  const int64_t key_patches = call.batch * call.key_rows * call.key_columns;
  const int64_t cells =
      call.batch * std::max(call.query.size(2) * call.query.size(3), call.key.size(2) * call.key.size(3));
  Tensor memory = new_array(call.index, query_patches + key_patches + cells, call.score.scalar_type());
  with_element_type(call.query.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    using Sum = Accumulate<Element>;
    const MapView<Element> query = view<Element>(call.query), key = view<Element>(call.key);
    Sum* const query_norm = memory.mutable_data_ptr<Sum>();
    Sum* const key_norm = query_norm + query_patches;
    Sum* const squares = key_norm + key_patches;
    const auto find_norms = [&](const MapView<Element>& map, int64_t patches, Sum* norms) {
      if (patches == 0) return;
      start(square_cells<Sum, Element>, pair_blocks(call.batch * map.cells()), kPairThreads, kPairShared, stream, map,
            call.batch, call.channels, squares);
      start(invert_norms<Sum>, run_blocks(patches), kRunThreads, 0, stream, static_cast<const Sum*>(squares),
            call.batch, map.height, map.width, static_cast<int>(call.patch_size), norms);
    };
    find_norms(query, query_patches, query_norm);
    find_norms(key, key_patches, key_norm);
    SimilarityWork<Element, Sum> found = {};
    found.shape = shape_of(call);
    found.channels = call.channels;
    found.query = query;
    found.key = key;
    found.query_norm = query_norm;
    found.key_norm = key_norm;
    found.score = call.score.mutable_data_ptr<Sum>();
    work(found);
  });
}

template <class Element, class Sum>
void add_gradient(const SimilarityGradientCall& gradient, SimilarityWork<Element, Sum>& work) {
  work.grad = gradient.grad_score.const_data_ptr<Sum>();
  work.tiles = cell_tiles(gradient.result.size(2) * gradient.result.size(3), gradient.call.channels, kGatherCells);
  work.result = gradient.result.mutable_data_ptr<Element>();
}

}  // namespace

void similarity_cuda(const SimilarityCall& call) {
  if (call.score.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.query.get_device_index());
  const cudaStream_t stream = current_stream(call.query);
  with_norms(call, stream, [&](auto work) {
    using Element = std::remove_const_t<std::remove_pointer_t<decltype(work.query.features)>>;
    using Sum = Accumulate<Element>;
    start(similarity<Sum, Element>, pair_blocks(call.score.numel()), kPairThreads, kPairShared, stream, work);
  });
}

void similarity_query_backward_cuda(const SimilarityGradientCall& gradient) {
  const SimilarityCall& call = gradient.call;
  if (gradient.result.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.query.get_device_index());
  const cudaStream_t stream = current_stream(call.query);
  with_norms(call, stream, [&](auto work) {
    using Element = std::remove_const_t<std::remove_pointer_t<decltype(work.query.features)>>;
    using Sum = Accumulate<Element>;
    add_gradient(gradient, work);
    start(similarity_query_backward<Sum, Element>, work.tiles.blocks(call.batch), work.tiles.threads, 0, stream, work);
  });
}

void similarity_key_backward_cuda(const SimilarityGradientCall& gradient) {
  const SimilarityCall& call = gradient.call;
  if (gradient.result.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.query.get_device_index());
  const cudaStream_t stream = current_stream(call.query);
  with_norms(call, stream, [&](auto work) {
    using Element = std::remove_const_t<std::remove_pointer_t<decltype(work.query.features)>>;
    using Sum = Accumulate<Element>;
    add_gradient(gradient, work);
    const RunsMemory memory(call.index, work.shape, stream);
    const Runs runs = memory.runs();
    start(count_choices, run_blocks(call.index.numel()), kRunThreads, 0, stream, work.shape, runs);
    order_runs(work.shape, runs, stream);
    start(similarity_key_backward<Sum, Element>, work.tiles.blocks(call.batch), work.tiles.threads, 0, stream, work,
          runs);
  });
}

}  // namespace patchswap
