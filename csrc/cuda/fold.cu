// Host side of fold and its gradient on the GPU: workspace and launches.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <utility>

#include "../dtype.h"
#include "../ops.h"
#include "fold.cuh"
#include "launch.cuh"

namespace patchswap {
namespace {

using torch::headeronly::ScalarType;

template <class Element>
FoldParameters<Element> parameters(const FoldCall& call) {
  return {.index = call.index.const_data_ptr<int64_t>(),
          .source = call.source.const_data_ptr<Element>(),
          .base = call.base ? call.base->const_data_ptr<Element>() : nullptr,
          .result = call.result.mutable_data_ptr<Element>(),
          .batch = call.batch,
          .channels = call.channels,
          .height = call.height,
          .width = call.width,
          .key_height = call.key_height,
          .key_width = call.key_width,
          .rows = call.rows,
          .columns = call.columns,
          .key_rows = call.key_rows,
          .key_columns = call.key_columns,
          .sorted_index = nullptr,
          .order = nullptr,
          .run_begin = nullptr,
          .cover_count = nullptr};
}

// torch.sort(tensor, dim=1, stable=True): values and positions. Stable, so that sums keep the order of the queries.
std::pair<Tensor, Tensor> stable_sort(const Tensor& tensor) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(tensor), from(std::optional<bool>(true)), from(int64_t{1}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

}  // namespace

void fold_cuda(const FoldCall& call) {
  if (call.result.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.result.get_device_index());
  const cudaStream_t stream = current_stream(call.result);
  with_element_type(call.source.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    with_patch_size(call.patch_size, [&](auto patch_size) {
      constexpr int kPatch = decltype(patch_size)::value;
      const FoldParameters<Element> p = parameters<Element>(call);
      launch(stream, call.result.numel(), Fold<kPatch, Accumulate<Element>, Element>{p});
    });
  });
}

void fold_backward_cuda(const FoldCall& call) {
  if (call.result.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.result.get_device_index());
  const cudaStream_t stream = current_stream(call.result);
  const int64_t keys = call.key_rows * call.key_columns;
  const int64_t run_shape[] = {call.batch, keys + 1}, cover_shape[] = {call.batch, call.height, call.width};
  const int64_t flat_shape[] = {call.batch, call.rows * call.columns};
  const auto [sorted_index, order] = stable_sort(torch::stable::view(call.index, {flat_shape, 2}));
  Tensor run_begin = torch::stable::new_empty(call.index, {run_shape, 2});
  Tensor cover_count = torch::stable::new_empty(call.index, {cover_shape, 3}, ScalarType::Int);
  const int64_t *sorted_data = sorted_index.const_data_ptr<int64_t>(), *order_data = order.const_data_ptr<int64_t>();
  with_element_type(call.source.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    with_patch_size(call.patch_size, [&](auto patch_size) {
      constexpr int kPatch = decltype(patch_size)::value;
      FoldParameters<Element> p = parameters<Element>(call);
      p.sorted_index = sorted_data;
      p.order = order_data;
      p.run_begin = run_begin.mutable_data_ptr<int64_t>();
      p.cover_count = cover_count.mutable_data_ptr<int32_t>();
      launch(stream, run_begin.numel(), RunBegin<Element>{p});
      launch(stream, cover_count.numel(), CoverCount<kPatch, Element>{p});
      launch(stream, call.result.numel(), FoldBackward<kPatch, Accumulate<Element>, Element>{p});
    });
  });
}

}  // namespace patchswap
