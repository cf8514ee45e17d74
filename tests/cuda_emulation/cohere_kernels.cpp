// The kernels of cohere as a function that Python calls, for test_cohere_emulated.py. With PATCHSWAP_ONE_VARIANT only
// float32, which is quick to compile.

#if !defined(PATCHSWAP_ONE_VARIANT)
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#endif

#include <cstdint>
#include <type_traits>

#include "cuda/cohere.cuh"

namespace {

using namespace patchswap;

// The layout is that of the ctypes class of the same name. Maps have any strides.
struct Call {
  const void *query, *key;
  int64_t query_strides[4], key_strides[4];
  int64_t batch, channels, height, width, key_height, key_width;
  int32_t patch_size, ranks, sweeps, dtype;  // dtype: 0 float32, 1 float16, 2 bfloat16, 3 float64
  double weight;
  int64_t metric;  // as an enum
  const int64_t* given;
  const bool *query_mask, *key_mask;
  void *query_cells, *key_cells;  // the same where both are one map
  KeyPlace *places, *known_places;
  void* known;
  int64_t* index;
  void* score;
};

template <class Kernel>
void run(const emulation::Schedule& schedule, int64_t blocks, int threads, int shared_bytes, const Kernel& kernel) {
  if (blocks > 0) emulation::emulate(schedule, static_cast<int>(blocks), threads, shared_bytes, kernel);
}

int patches_along(int64_t size, int patch_size) {
  return size < patch_size ? 0 : static_cast<int>(size) - patch_size + 1;
}

// Launches as in csrc/cuda/cohere.cu.
template <class Element>
void run_call(const emulation::Schedule& schedule, const Call& call) {
  using Sum = std::conditional_t<std::is_same_v<Element, double>, double, float>;
  const int pitch = padded_channels<Sum>(call.channels);
  const auto lay = [&](const void* features, const int64_t* strides, int64_t height, int64_t width, void* copy) {
    StridedMap<Element> map = {};
    map.features = static_cast<const Element*>(features);
    for (int i = 0; i < 4; i++) map.strides[i] = strides[i];
    map.channels = static_cast<int>(call.channels);
    map.height = static_cast<int>(height);
    map.width = static_cast<int>(width);
    run(schedule, call.batch * map.cell_tiles() * channel_tiles(pitch), kLayThreads, kLayShared,
        [&] { lay_cells<Element, Sum>(map, pitch, static_cast<Sum*>(copy)); });
  };
  lay(call.query, call.query_strides, call.height, call.width, call.query_cells);
  if (call.key_cells != call.query_cells) {
    lay(call.key, call.key_strides, call.key_height, call.key_width, call.key_cells);
  }
  CohereWork<Sum> work = {};
  work.given = call.given;
  work.query_mask = call.query_mask;
  work.key_mask = call.key_mask;
  work.query_cells = static_cast<const Sum*>(call.query_cells);
  work.key_cells = static_cast<const Sum*>(call.key_cells);
  work.batch = call.batch;
  work.rows = patches_along(call.height, call.patch_size);
  work.columns = patches_along(call.width, call.patch_size);
  work.key_rows = patches_along(call.key_height, call.patch_size);
  work.key_columns = patches_along(call.key_width, call.patch_size);
  work.patch_size = call.patch_size;
  work.ranks = call.ranks;
  work.pitch = pitch;
  work.weight = call.weight;
  work.metric = static_cast<Metric>(call.metric);
  work.places[0] = call.places;
  work.places[1] = call.places + call.batch * work.queries();
  work.known_places = call.known_places;
  work.known = static_cast<Sum*>(call.known);
  work.index = call.index;
  work.score = static_cast<Sum*>(call.score);
  const int64_t blocks = call.batch * work.tiles();
  if (call.sweeps == 0) run(schedule, blocks, kSweepThreads, 0, [&] { cohere_sweep(work, 0); });
  for (int sweep = 1; sweep <= call.sweeps; sweep++) {
    run(schedule, blocks, kSweepThreads, 0, [&] { cohere_sweep(work, sweep); });
  }
}

}  // namespace

extern "C" {

// Null, or what went wrong; the text lives until the next call.
const char* run_cohere(const emulation::Schedule* schedule, const Call* call) {
  return emulation::message_of([&] {
    if (call->dtype == 0) run_call<float>(*schedule, *call);
#if !defined(PATCHSWAP_ONE_VARIANT)
    if (call->dtype == 1) run_call<torch::headeronly::Half>(*schedule, *call);
    if (call->dtype == 2) run_call<torch::headeronly::BFloat16>(*schedule, *call);
    if (call->dtype == 3) run_call<double>(*schedule, *call);
#endif
  });
}

int64_t call_size() { return sizeof(Call); }
int most_slots() { return kMostSlots; }

}  // extern "C"
