// Host side of match on the GPU: workspace and launches.
//
// Workspace: 1 / norm of every patch, and slices x topk candidates (score and index) for each query.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../dtype.h"
#include "../ops.h"
#include "launch.cuh"
#include "match.cuh"

namespace patchswap {
namespace {

using torch::headeronly::ScalarType;

static_assert(kMostRanks == kMaxTopk);

// Enough threads to fill a large GPU, a fixed number so that every device does the same work.
constexpr int64_t kWantedThreads = 1 << 18;
constexpr int64_t kMostSlices = 64;

template <class Element>
MapView<Element> view(const Tensor& features, const std::optional<Tensor>& mask, int64_t rows, int64_t columns) {
  return {.features = features.const_data_ptr<Element>(),
          .mask = mask ? mask->const_data_ptr<bool>() : nullptr,
          .channels = features.size(1),
          .height = features.size(2),
          .width = features.size(3),
          .rows = rows,
          .columns = columns};
}

template <int P, class Element>
void match_typed(const MatchCall& call) {
  using Sum = Accumulate<Element>;
  const cudaStream_t stream = current_stream(call.query);
  const int64_t queries = call.query_rows * call.query_columns, keys = call.key_rows * call.key_columns;
  const int64_t slices = std::clamp<int64_t>(kWantedThreads / (call.batch * queries), 1, kMostSlices);
  const int64_t slice_shape[] = {call.batch, slices, call.topk, queries};
  const int64_t query_shape[] = {call.batch, queries}, key_shape[] = {call.batch, keys};
  Tensor query_norm = torch::stable::new_empty(call.score, {query_shape, 2});
  Tensor key_norm = torch::stable::new_empty(call.score, {key_shape, 2});
  Tensor slice_score = torch::stable::new_empty(call.score, {slice_shape, 4});
  Tensor slice_index = torch::stable::new_empty(call.index, {slice_shape, 4});

  const MatchParameters<Element, Sum> p{
      .query = view<Element>(call.query, call.query_mask, call.query_rows, call.query_columns),
      .key = view<Element>(call.key, call.key_mask, call.key_rows, call.key_columns),
      .query_inverse_norm = query_norm.const_data_ptr<Sum>(),
      .key_inverse_norm = key_norm.const_data_ptr<Sum>(),
      .batch = call.batch,
      .topk = call.topk,
      .slices = slices,
      .slice_score = slice_score.mutable_data_ptr<Sum>(),
      .slice_index = slice_index.mutable_data_ptr<int64_t>(),
      .score = call.score.mutable_data_ptr<Sum>(),
      .index = call.index.mutable_data_ptr<int64_t>()};
  launch(stream, call.batch * queries, InverseNorm<P, Element, Sum>{p.query, query_norm.mutable_data_ptr<Sum>()});
  launch(stream, call.batch * keys, InverseNorm<P, Element, Sum>{p.key, key_norm.mutable_data_ptr<Sum>()});
  launch(stream, call.batch * slices * queries, MatchSlice<P, Element, Sum>{p});
  launch(stream, call.batch * queries, MergeSlices<Element, Sum>{p});
}

}  // namespace

void match_cuda(const MatchCall& call) {
  if (call.index.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.query.get_device_index());
  with_element_type(call.query.scalar_type(), [&](auto element) {
    with_patch_size(call.patch_size,
                    [&](auto patch_size) { match_typed<decltype(patch_size)::value, decltype(element)>(call); });
  });
}

#define PATCHSWAP_TEXT_OF(...) #__VA_ARGS__
#define PATCHSWAP_TEXT(...) PATCHSWAP_TEXT_OF(__VA_ARGS__)

const char* cuda_toolkit() { return PATCHSWAP_TEXT(__CUDACC_VER_MAJOR__) "." PATCHSWAP_TEXT(__CUDACC_VER_MINOR__); }
const char* cuda_architectures() { return PATCHSWAP_TEXT(__CUDA_ARCH_LIST__); }

}  // namespace patchswap
