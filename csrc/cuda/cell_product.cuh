// The scalar products of the needed cells of a query tile with those of a key tile: a matrix product over channels.
//
// A block has Side x Side products, a thread 8 x 8 of them. Channels come kDepth at a time through shared memory, in
// two stages used in turn: while one is multiplied, the next is on its way from global memory in registers. Each
// product adds up its channels in order, wherever it lies: equal cells have equal products bit for bit, which the
// libraries' matrix products do not promise. No tensor core rounds its factors. Blocks beyond the last needed cell end
// at once, so masks save time without anybody waiting for a count.
#pragma once

#include <cstdint>

#include "device.cuh"
#include "numbers.cuh"
#include "tile_pair.cuh"

namespace patchswap {

constexpr int kCellsOfThread = 8;  // in each direction
constexpr int kDepth = 8;
constexpr int kSmallSide = 64;
// Fewer blocks than these, at kProductSide, would leave much of a large GPU idle: then Side is kSmallSide.
constexpr int64_t kEnoughBlocks = 256;

template <int Side>
constexpr int kProductThreads = (Side / kCellsOfThread) * (Side / kCellsOfThread);
// For the compiler: large blocks of float take no more registers than let two reside.
template <int Side, class Sum>
constexpr int kProductBound = (Side == kProductSide && sizeof(Sum) == 4 ? 2 : 1) * kProductThreads<Side>;
template <int Side, class Sum>
constexpr int kProductShared = 2 * 2 * kDepth * Side * static_cast<int>(sizeof(Sum));

template <class Element, class Sum>
struct CellProduct {
  const Element* query;  // [B][C][height][width]
  const Element* key;
  TilePair<Sum> pair;
};

// Where the first channel of the cell at a place of a tile lies, or null beyond the last place.
template <class Element, class Sum>
PATCHSWAP_DEVICE const Element* cell_at(const Element* features, const DirectMap<Sum>& map, int64_t sample,
                                        const Tile& tile, int patch_size, int place) {
  const int64_t tile_number = sample * map.tiling.tiles() + tile.number;
  if (place >= map.count[tile_number]) return nullptr;
  const int cell = map.cell[tile_number * map.cell_pitch + place], cell_columns = tile.columns + patch_size - 1;
  const int64_t row = tile.row + cell / cell_columns, column = tile.column + cell % cell_columns;
  return features + sample * map.sample_stride + row * map.width + column;
}

// The 8 of Side numbers that thread `lane` of Side / 8 has: 16 bytes at a time, those of neighbouring threads adjacent.
template <int Side, class Sum>
PATCHSWAP_DEVICE void load_cells(Shared<Sum> stage, int begin, int lane, Sum (&cells)[kCellsOfThread]) {
  constexpr int kCount = Numbers<Sum>::kCount;
#pragma unroll
  for (int i = 0; i < kCellsOfThread; i += kCount) {
    const Words words = stage.load_words(begin + i * (Side / kCellsOfThread) + lane * kCount);
    Numbers<Sum> numbers;
    __builtin_memcpy(&numbers, &words, sizeof(words));
#pragma unroll
    for (int j = 0; j < kCount; j++) cells[i + j] = numbers.number[j];
  }
}

template <int Side, class Element, class Sum>
PATCHSWAP_KERNEL((kProductBound<Side, Sum>))
cell_product(CellProduct<Element, Sum> work) {
  constexpr int kThreads = kProductThreads<Side>, kLanes = Side / kCellsOfThread;
  constexpr int kRows = kThreads / Side, kLoads = kDepth / kRows;  // channels that all threads load at once, and rounds
  constexpr int kStage = 2 * kDepth * Side;
  const TilePair<Sum>& p = work.pair;
  const int query_blocks = p.query.cell_pitch / Side, key_blocks = p.key.cell_pitch / Side;
  const int thread = thread_index(), lane = thread % kLanes, row = thread / kLanes;
  const int first_query = block_index() % query_blocks * Side;
  const int first_key = block_index() / query_blocks % key_blocks * Side;
  const int sample_here = block_index() / query_blocks / key_blocks;
  const int64_t sample = p.first_sample + sample_here;
  if (first_query >= p.query.count[sample * p.query.tiling.tiles() + p.query_tile.number] ||
      first_key >= p.key.count[sample * p.key.tiling.tiles() + p.key_tile.number]) {
    return;
  }
  const Shared<Sum> shared = shared_memory<Sum>(0, 2 * kStage);  // [stage][query, key][kDepth][Side]

  const int loaded = thread % Side, loaded_row = thread / Side;
  const Element* query = cell_at(work.query, p.query, sample, p.query_tile, p.patch_size, first_query + loaded);
  const Element* key = cell_at(work.key, p.key, sample, p.key_tile, p.patch_size, first_key + loaded);
  const int64_t query_plane = p.query.height * p.query.width, key_plane = p.key.height * p.key.width;
  Sum next_query[kLoads], next_key[kLoads];
  const auto fetch = [&](int64_t first_channel) {
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      const int64_t channel = first_channel + i * kRows + loaded_row;
      const bool is_there = channel < p.query.channels;
      next_query[i] = is_there && query != nullptr ? static_cast<Sum>(query[channel * query_plane]) : Sum(0);
      next_key[i] = is_there && key != nullptr ? static_cast<Sum>(key[channel * key_plane]) : Sum(0);
    }
  };
  const auto keep = [&](int stage) {
#pragma unroll
    for (int i = 0; i < kLoads; i++) {
      const int place = stage * kStage + (i * kRows + loaded_row) * Side + loaded;
      shared.store(place, next_query[i]);
      shared.store(place + kDepth * Side, next_key[i]);
    }
  };

  Sum sum[kCellsOfThread][kCellsOfThread] = {};  // [key][query]
  fetch(0);
  keep(0);
  block_barrier();  // the first stage is there
  int stage = 0;
#pragma unroll 1
  for (int64_t channel = 0; channel < p.query.channels; channel += kDepth) {
    const bool has_next = channel + kDepth < p.query.channels;
    if (has_next) fetch(channel + kDepth);
// Unrolled further, the operands that the compiler loads ahead would not fit into the registers.
#pragma unroll 2
    for (int depth = 0; depth < kDepth; depth++) {
      Sum queries[kCellsOfThread], keys[kCellsOfThread];
      load_cells<Side>(shared, stage * kStage + depth * Side, lane, queries);
      load_cells<Side>(shared, stage * kStage + (kDepth + depth) * Side, row, keys);
#pragma unroll
      for (int i = 0; i < kCellsOfThread; i++) {
#pragma unroll
        for (int j = 0; j < kCellsOfThread; j++) sum[i][j] += keys[i] * queries[j];
      }
    }
    stage ^= 1;
    if (has_next) keep(stage);
    block_barrier();  // the next stage is there, and this one is read
  }

  constexpr int kCount = Numbers<Sum>::kCount;
#pragma unroll
  for (int i = 0; i < kCellsOfThread; i++) {
    const int key_place = first_key + i / kCount * kCount * kLanes + row * kCount + i % kCount;
    Sum* products = p.product + (int64_t{sample_here} * p.key.cell_pitch + key_place) * p.query.cell_pitch;
#pragma unroll
    for (int j = 0; j < kCellsOfThread; j += kCount) {
      Numbers<Sum> numbers;
#pragma unroll
      for (int n = 0; n < kCount; n++) numbers.number[n] = sum[i][j + n];
      *reinterpret_cast<Numbers<Sum>*>(products + first_query + j * kLanes + lane * kCount) = numbers;
    }
  }
}

template <class Launch, class Element, class Sum>
void multiply_cells(const Launch& launch, const CellProduct<Element, Sum>& work) {
  const TilePair<Sum>& p = work.pair;
  const auto blocks = [&](int64_t side) { return p.samples * (p.query.cell_pitch / side) * (p.key.cell_pitch / side); };
  if (blocks(kProductSide) >= kEnoughBlocks) {
    launch(cell_product<kProductSide, Element, Sum>, blocks(kProductSide), kProductThreads<kProductSide>,
           kProductShared<kProductSide, Sum>, work);
  } else {
    launch(cell_product<kSmallSide, Element, Sum>, blocks(kSmallSide), kProductThreads<kSmallSide>,
           kProductShared<kSmallSide, Sum>, work);
  }
}

}  // namespace patchswap
