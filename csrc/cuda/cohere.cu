// Host side of cohere on the GPU: workspace and launches.

#include "cohere.cuh"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "../dtype.h"
#include "../ops.h"
#include "launch.cuh"

namespace patchswap {
namespace {

static_assert(kMostSlots == kMaxTopk + kNeighbours);

template <class Element>
StridedMap<Element> view(const Tensor& features) {
  const int64_t cells = features.size(2) * features.size(3);
  STD_TORCH_CHECK(cells < kMostCohereCells && features.size(1) < kMostCohereCells,
                  "patchswap.cohere: a map must have fewer than 2^30 cells in each channel; got ", features.size(2),
                  " x ", features.size(3));
  return {.features = features.const_data_ptr<Element>(),
          .strides = {features.stride(0), features.stride(1), features.stride(2), features.stride(3)},
          .channels = static_cast<int>(features.size(1)),
          .height = static_cast<int>(features.size(2)),
          .width = static_cast<int>(features.size(3))};
}

template <class Element>
bool is_same(const StridedMap<Element>& left, const StridedMap<Element>& right) {
  bool same = left.features == right.features && left.height == right.height && left.width == right.width;
  for (int i = 0; i < 4; i++) same = same && left.strides[i] == right.strides[i];
  return same;
}

// Workspace: a float32 copy of each map, of both if they are one, and 208 bytes for each query patch (float64: twice
// the copy, and 272 bytes).
template <class Element>
void cohere(const CohereCall& call, cudaStream_t stream) {
  using torch::headeronly::ScalarType;
  using Sum = Accumulate<Element>;
  const StridedMap<Element> query = view<Element>(call.query), key = view<Element>(call.key);
  const bool is_one_map = is_same(query, key);
  const int64_t queries = call.batch * call.query_rows * call.query_columns;
  const int pitch = padded_channels<Sum>(call.channels);
  const int64_t query_numbers = call.batch * query.cells() * pitch;
  const int64_t key_numbers = is_one_map ? 0 : call.batch * key.cells() * pitch;
  const int64_t shape[] = {query_numbers + key_numbers + queries * kMostSlots};
  const int64_t places_shape[] = {queries * (2 + kMostSlots) * 2};
  Tensor numbers = torch::stable::new_empty(call.score, {shape, 1});
  Tensor places = torch::stable::new_empty(call.score, {places_shape, 1}, ScalarType::Int);
  Sum* const query_cells = numbers.mutable_data_ptr<Sum>();
  Sum* const key_cells = is_one_map ? query_cells : query_cells + query_numbers;
  KeyPlace* const first_places = reinterpret_cast<KeyPlace*>(places.mutable_data_ptr<int32_t>());
  const CohereWork<Sum> work{.given = call.given.const_data_ptr<int64_t>(),
                             .query_mask = call.query_mask ? call.query_mask->const_data_ptr<bool>() : nullptr,
                             .key_mask = call.key_mask ? call.key_mask->const_data_ptr<bool>() : nullptr,
                             .query_cells = query_cells,
                             .key_cells = key_cells,
                             .batch = call.batch,
                             .rows = static_cast<int>(call.query_rows),
                             .columns = static_cast<int>(call.query_columns),
                             .key_rows = static_cast<int>(call.key_rows),
                             .key_columns = static_cast<int>(call.key_columns),
                             .patch_size = static_cast<int>(call.patch_size),
                             .ranks = static_cast<int>(call.ranks),
                             .pitch = pitch,
                             .weight = call.weight,
                             .metric = call.metric,
                             .places = {first_places, first_places + queries},
                             .known_places = first_places + 2 * queries,
                             .known = query_cells + query_numbers + key_numbers,
                             .index = call.index.mutable_data_ptr<int64_t>(),
                             .score = call.score.mutable_data_ptr<Sum>()};
  const auto lay = [&](const StridedMap<Element>& map, Sum* copy) {
    const int64_t blocks = call.batch * map.cell_tiles() * channel_tiles(pitch);
    start(lay_cells<Element, Sum>, blocks, kLayThreads, kLayShared, stream, map, pitch, copy);
  };
  lay(query, query_cells);
  if (!is_one_map) lay(key, key_cells);
  const int64_t blocks = call.batch * work.tiles(), sweeps = call.weight > 0 ? call.sweeps : 0;
  if (sweeps == 0) start(cohere_sweep<Sum>, blocks, kSweepThreads, 0, stream, work, 0);
  for (int64_t sweep = 1; sweep <= sweeps; sweep++) {
    start(cohere_sweep<Sum>, blocks, kSweepThreads, 0, stream, work, static_cast<int>(sweep));
  }
}

}  // namespace

void cohere_cuda(const CohereCall& call) {
  if (call.index.numel() == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(call.query.get_device_index());
  const cudaStream_t stream = current_stream(call.query);
  with_element_type(call.query.scalar_type(), [&](auto element) { cohere<decltype(element)>(call, stream); });
}

}  // namespace patchswap
