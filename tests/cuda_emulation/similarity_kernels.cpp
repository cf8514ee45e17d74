// The kernels of similarity and its gradients as a function that Python calls, for test_similarity_emulated.py. With
// PATCHSWAP_ONE_VARIANT only float32, which is quick to compile.

#if !defined(PATCHSWAP_ONE_VARIANT)
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/similarity.cuh"

namespace {

using namespace patchswap;

// The layout is that of the ctypes class of the same name. Maps have any strides. result and grad are null where the
// score is wanted.
struct Call {
  const void *query, *key;
  int64_t query_strides[4], key_strides[4];
  int64_t batch, channels, height, width, key_height, key_width;
  const int64_t* index;
  void *squares, *query_norm, *key_norm, *score;
  const void* grad;
  void* result;
  int32_t patch_size, ranks, dtype;  // dtype: 0 float32, 1 float16, 2 bfloat16, 3 float64
  int32_t most_blocks;               // of each launch: those behind them are left out
};

template <class Element>
MapView<Element> view(const void* features, const int64_t* strides, int64_t height, int64_t width) {
  MapView<Element> map = {};
  map.features = static_cast<const Element*>(features);
  for (int i = 0; i < 4; i++) map.strides[i] = strides[i];
  map.height = static_cast<int>(height);
  map.width = static_cast<int>(width);
  return map;
}

// Launches as in csrc/cuda/similarity.cu.
template <class Element>
void run_call(const emulation::Schedule& schedule, const Call& call, const Runs* runs) {
  using Sum = std::conditional_t<std::is_same_v<Element, double>, double, float>;
  const auto run = [&](int64_t blocks, int threads, int shared_bytes, const auto& kernel) {
    const int64_t taken = std::min<int64_t>(blocks, call.most_blocks);
    if (taken > 0) emulation::emulate(schedule, static_cast<int>(taken), threads, shared_bytes, kernel);
  };
  const auto patches_along = [&](int64_t size) {
    return static_cast<int>(std::max<int64_t>(size - call.patch_size + 1, 0));
  };
  SimilarityWork<Element, Sum> work = {};
  Chosen& shape = work.shape;
  shape.index = call.index;
  shape.batch = call.batch;
  shape.height = static_cast<int>(call.height);
  shape.width = static_cast<int>(call.width);
  shape.key_height = static_cast<int>(call.key_height);
  shape.key_width = static_cast<int>(call.key_width);
  shape.ranks = call.ranks;
  shape.rows = patches_along(call.height);
  shape.columns = patches_along(call.width);
  shape.key_rows = patches_along(call.key_height);
  shape.key_columns = patches_along(call.key_width);
  shape.patch_size = call.patch_size;
  work.channels = call.channels;
  work.query = view<Element>(call.query, call.query_strides, call.height, call.width);
  work.key = view<Element>(call.key, call.key_strides, call.key_height, call.key_width);
  work.query_norm = static_cast<const Sum*>(call.query_norm);
  work.key_norm = static_cast<const Sum*>(call.key_norm);
  work.score = static_cast<Sum*>(call.score);
  work.grad = static_cast<const Sum*>(call.grad);
  work.result = static_cast<Element*>(call.result);
  const auto find_norms = [&](const MapView<Element>& map, int64_t patches, void* norms) {
    if (patches == 0) return;
    Sum* const squares = static_cast<Sum*>(call.squares);
    run(pair_blocks(call.batch * map.cells()), kPairThreads, kPairShared,
        [&] { square_cells<Sum>(map, call.batch, call.channels, squares); });
    run(run_blocks(patches), kRunThreads, 0, [&] {
      invert_norms<Sum>(squares, call.batch, map.height, map.width, call.patch_size, static_cast<Sum*>(norms));
    });
  };
  find_norms(work.query, call.batch * shape.queries(), call.query_norm);
  find_norms(work.key, call.batch * shape.keys(), call.key_norm);
  const int64_t pairs = shape.layers() * shape.queries(), keys = shape.layers() * shape.keys();
  if (call.result == nullptr) {
    run(pair_blocks(pairs), kPairThreads, kPairShared, [&] { similarity<Sum>(work); });
    return;
  }
  const int64_t cells = runs == nullptr ? call.height * call.width : call.key_height * call.key_width;
  work.tiles = cell_tiles(cells, call.channels, kGatherCells);
  const int64_t blocks = work.tiles.blocks(call.batch);
  if (runs == nullptr) {
    run(blocks, work.tiles.threads, 0, [&] { similarity_query_backward<Sum>(work); });
    return;
  }
  run(run_blocks(pairs), kRunThreads, 0, [&] { count_choices(shape, *runs); });
  run(run_blocks(keys), kRunThreads, kRunShared, [&] { place_runs(shape, *runs); });
  run(run_blocks(pairs), kRunThreads, 0, [&] { list_runs(shape, *runs); });
  run(run_blocks(pairs), kRunThreads, 0, [&] { sort_runs(shape, *runs); });
  run(blocks, work.tiles.threads, 0, [&] { similarity_key_backward<Sum>(work, *runs); });
}

}  // namespace

extern "C" {

// similarity; with a result its gradient with respect to query, or with runs that with respect to key. Null, or what
// went wrong; the text lives until the next call.
const char* run_similarity(const emulation::Schedule* schedule, const Call* call, const Runs* runs) {
  return emulation::message_of([&] {
    if (call->dtype == 0) run_call<float>(*schedule, *call, runs);
#if !defined(PATCHSWAP_ONE_VARIANT)
    if (call->dtype == 1) run_call<torch::headeronly::Half>(*schedule, *call, runs);
    if (call->dtype == 2) run_call<torch::headeronly::BFloat16>(*schedule, *call, runs);
    if (call->dtype == 3) run_call<double>(*schedule, *call, runs);
#endif
  });
}

int64_t call_size() { return sizeof(Call); }
int64_t runs_size() { return sizeof(Runs); }

}  // extern "C"
