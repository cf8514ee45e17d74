// match on the GPU for what the tensor-core search does not take: exact, for every dtype, patch size and topk.
//
// The product of two patches is the sum of the products of their p x p pairs of cells. So each pair of cells is
// multiplied once, and not once for each of the p x p pairs of patches that hold it. Six kernels:
//   square_cells     one thread per cell: its squared norm
//   scale_patches    one thread per patch: scale and bias of metric.h; instead of the scale a code (see kExcluded)
//   number_cells     one block per tile: lists the cells that a patch which takes part covers
//   cell_product     (cell_product.cuh) the matrix product of the listed cells of two tiles
//   best_of_tile     one thread per (sample, slice of a tile's keys, query): the best keys of the slice so far
//   best_of_slices   one thread per (sample, query): the best of the slices, and their scores
// The first three run once for each map, the next two for each pair of a query tile and a key tile, the last for each
// query tile. Threads in a row hold neighbouring queries, so they read neighbouring products.
//
// The sums of a product run over the channels, then over the cells of a patch, always in this order. Equal patches
// therefore have equal scores bit for bit, wherever they lie and however the maps are cut into tiles. Slices exist to
// have enough threads; they change nothing in the result, as candidates are compared in a total order.
//
// Torch-free, and the host side of it as well: Launch starts a kernel, Space hands out memory. Element is the type of
// the features, Sum that of scores (float or double).
#pragma once

#include <cstdint>

#include "cell_product.cuh"
#include "device.cuh"
#include "limits.cuh"
#include "tile_pair.cuh"

namespace patchswap {

constexpr int kMostRanks = 8;
constexpr int kDirectThreads = 128;
constexpr int kNumberThreads = 512;
constexpr int kNumberShared = kNumberThreads / kWarp * 4;  // bytes of shared memory of number_cells
// Enough threads to fill a large GPU, a fixed number so that every device does the same work.
constexpr int64_t kWantedThreads = 1 << 17;
constexpr int64_t kMostSlices = 64;  // one thread goes through all slices of a query

// In place of a scale, marks a patch that takes no part; a patch that is not finite has NaN there.
constexpr int kExcluded = -1;

// A higher score goes first; of equal scores, the lower index.
template <class Sum>
PATCHSWAP_DEVICE bool goes_before(Sum score, int64_t index, Sum other_score, int64_t other_index) {
  return score > other_score || (score == other_score && index < other_index);
}

// The best candidates so far, best first; free ranks hold index -1 and score -inf. Loops over ranks are unrolled, so
// that all of it stays in registers.
template <int Ranks, class Sum>
struct Candidates {
  Sum score[Ranks];
  int64_t index[Ranks];

  PATCHSWAP_DEVICE Candidates() {
#pragma unroll
    for (int rank = 0; rank < Ranks; rank++) {
      score[rank] = -infinity<Sum>();
      index[rank] = -1;
    }
  }

  PATCHSWAP_DEVICE void offer(Sum new_score, int64_t new_index) {
    if (!goes_before(new_score, new_index, score[Ranks - 1], index[Ranks - 1])) return;
#pragma unroll
    for (int rank = 0; rank < Ranks; rank++) {
      if (!goes_before(new_score, new_index, score[rank], index[rank])) continue;
      const Sum moved_score = score[rank];
      const int64_t moved_index = index[rank];
      score[rank] = new_score;
      index[rank] = new_index;
      new_score = moved_score;
      new_index = moved_index;
    }
  }
};

// ---- once for each map

template <class Element, class Sum>
struct CellsOfMap {
  const Element* features;  // [B][C][height][width]
  DirectMap<Sum> map;
};

template <class Element, class Sum>
PATCHSWAP_KERNEL(kDirectThreads)
square_cells(CellsOfMap<Element, Sum> work) {
  const DirectMap<Sum>& map = work.map;
  const int64_t plane = map.height * map.width;
  const int64_t thread = int64_t{block_index()} * kDirectThreads + thread_index();
  if (thread >= map.batch * plane) return;
  const Element* features = work.features + thread / plane * map.sample_stride + thread % plane;
  Sum square = 0;
  for (int64_t channel = 0; channel < map.channels; channel++) {
    const Sum value = static_cast<Sum>(features[channel * plane]);
    square += value * value;
  }
  map.square[thread] = square;
}

template <int P, class Sum>
PATCHSWAP_KERNEL(kDirectThreads)
scale_patches(DirectMap<Sum> map) {
  const int64_t patches = map.tiling.patches();
  const int64_t thread = int64_t{block_index()} * kDirectThreads + thread_index();
  if (thread >= map.batch * patches) return;
  if (map.mask != nullptr && !map.mask[thread]) {
    map.scale[thread] = kExcluded;
    return;
  }
  const int64_t row = thread % patches / map.tiling.columns, column = thread % patches % map.tiling.columns;
  const Sum* squares = map.square + (thread / patches * map.height + row) * map.width + column;
  Sum square = 0;
#pragma unroll
  for (int dy = 0; dy < P; dy++) {
#pragma unroll
    for (int dx = 0; dx < P; dx++) square += squares[dy * map.width + dx];
  }
  const Sum weight = map.weight == nullptr ? Sum(1) : map.weight[thread];
  if (!(square <= Limits<Sum>::kLargest && weight >= 0 && weight <= Limits<Sum>::kLargest)) {
    map.scale[thread] = not_a_number<Sum>();
  } else if (map.metric == Metric::kNcc) {
    map.scale[thread] = square < Limits<Sum>::kSmallestNormal ? Sum(0) : weight / square_root(square);
  } else {
    map.scale[thread] = map.metric == Metric::kL2 && !map.is_query ? 2 * weight : weight;
  }
  if (map.bias != nullptr) map.bias[thread] = map.is_query ? -square / 2 : -weight * square;
}

// Numbers the cells of a tile that a patch of the tile covers which takes part, in row-major order.
template <int P, class Sum>
PATCHSWAP_KERNEL(kNumberThreads)
number_cells(DirectMap<Sum> map) {
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  const int64_t sample = block_index() / map.tiling.tiles();
  const Tile tile = tile_of(map.tiling, block_index() % map.tiling.tiles());
  const int cell_columns = tile.columns + P - 1, cells = (tile.rows + P - 1) * cell_columns;
  const int64_t place_of_tile = int64_t{block_index()} * map.cell_pitch;
  const Shared<int> counts = shared_memory<int>(0, kNumberThreads / kWarp);
  int numbered = 0;
  for (int begin = 0; begin < cells; begin += kNumberThreads) {
    const int cell = begin + thread;
    bool is_needed = false;
    if (cell < cells) {
      const int row = cell / cell_columns, column = cell % cell_columns;
#pragma unroll 1
      for (int i = 0; i < P * P && !is_needed; i++) {
        const int y = row - i / P, x = column - i % P;
        if (y < 0 || y >= tile.rows || x < 0 || x >= tile.columns) continue;
        is_needed = map.scale[map.patch(sample, tile, y, x)] >= 0;
      }
    }
    const uint32_t needed = ballot(is_needed);
    if (lane == 0) counts.store(warp, count_bits(needed));
    block_barrier();  // the counts are there
    int place = numbered + count_bits(needed & ((1u << lane) - 1));
    for (int i = 0; i < kNumberThreads / kWarp; i++) {
      const int count = counts.load(i);
      if (i < warp) place += count;
      numbered += count;
    }
    block_barrier();  // the counts are read
    if (cell < cells) map.place[place_of_tile + cell] = is_needed ? place : -1;
    if (is_needed) map.cell[place_of_tile + place] = cell;
  }
  if (thread == 0) map.count[block_index()] = numbered;
}

// ---- for each pair of tiles

template <int P, int Ranks, class Sum>
PATCHSWAP_KERNEL(kDirectThreads)
best_of_tile(TilePair<Sum> p) {
  const int patches = p.query_tile.patches(), keys = p.key_tile.patches();
  const int64_t thread = int64_t{block_index()} * kDirectThreads + thread_index();
  if (thread >= int64_t{p.samples} * p.slices * patches) return;
  const int patch = static_cast<int>(thread % patches), slice = static_cast<int>(thread / patches % p.slices);
  const int sample_here = static_cast<int>(thread / patches / p.slices);
  const int64_t sample = p.first_sample + sample_here;
  const int y = patch / p.query_tile.columns, x = patch % p.query_tile.columns;
  const int64_t query = p.query.patch(sample, p.query_tile, y, x);
  const Sum query_scale = p.query.scale[query], query_bias = p.query.bias == nullptr ? Sum(0) : p.query.bias[query];
  if (!(query_scale >= 0)) return;  // best_of_slices does not look at its candidates

  Candidates<Ranks, Sum> best;
  const int64_t list = int64_t{sample_here * p.slices + slice} * p.topk * patches + patch;
#pragma unroll
  for (int rank = 0; rank < Ranks; rank++) {
    if (p.is_first || rank >= p.topk) continue;
    best.score[rank] = p.slice_score[list + int64_t{rank} * patches];
    best.index[rank] = p.slice_index[list + int64_t{rank} * patches];
  }

  const Sum* products = p.product + int64_t{sample_here} * p.key.cell_pitch * p.query.cell_pitch;
  const int* query_places = p.query.places(sample, p.query_tile) + y * (p.query_tile.columns + P - 1) + x;
  int query_place[P][P];
#pragma unroll
  for (int dy = 0; dy < P; dy++) {
#pragma unroll
    for (int dx = 0; dx < P; dx++) query_place[dy][dx] = query_places[dy * (p.query_tile.columns + P - 1) + dx];
  }

  // The places of the cells of a key move with it along a row. Those of keys that take no part may mean nothing.
  const int key_columns = p.key_tile.columns, cell_columns = key_columns + P - 1;
  const int* key_places = p.key.places(sample, p.key_tile);
  const int first = static_cast<int>(int64_t{keys} * slice / p.slices);
  const int last = static_cast<int>(int64_t{keys} * (slice + 1) / p.slices);
  int row = first / key_columns, column = first % key_columns;
  int key_place[P][P] = {};
  for (int key = first; key < last; key++) {
    const int* places = key_places + row * cell_columns + column;
    const bool is_start = key == first || column == 0;
#pragma unroll
    for (int dy = 0; dy < P; dy++) {
#pragma unroll
      for (int dx = 0; dx < P - 1; dx++) {
        key_place[dy][dx] = is_start ? places[dy * cell_columns + dx] * p.query.cell_pitch : key_place[dy][dx + 1];
      }
      key_place[dy][P - 1] = places[dy * cell_columns + P - 1] * p.query.cell_pitch;
    }
    const int64_t number = p.key.patch(0, p.key_tile, row, column);
    const int64_t patch_of_batch = sample * p.key.tiling.patches() + number;
    const Sum scale = p.key.scale[patch_of_batch];
    if (scale >= 0) {
      Sum sum = 0;
#pragma unroll
      for (int dy = 0; dy < P; dy++) {
#pragma unroll
        for (int dx = 0; dx < P; dx++) sum += products[key_place[dy][dx] + query_place[dy][dx]];
      }
      const Sum ranking = p.key.bias == nullptr ? sum * scale : (sum + query_bias) * scale + p.key.bias[patch_of_batch];
      best.offer(query_scale > 0 ? ranking : Sum(0), number);
    }
    if (++column == key_columns) {
      column = 0;
      row++;
    }
  }
#pragma unroll
  for (int rank = 0; rank < Ranks; rank++) {
    if (rank >= p.topk) continue;
    p.slice_score[list + int64_t{rank} * patches] = best.score[rank];
    p.slice_index[list + int64_t{rank} * patches] = best.index[rank];
  }
}

// ---- for each query tile

template <int Ranks, class Sum>
PATCHSWAP_KERNEL(kDirectThreads)
best_of_slices(TilePair<Sum> p) {
  const int patches = p.query_tile.patches();
  const int64_t thread = int64_t{block_index()} * kDirectThreads + thread_index();
  if (thread >= int64_t{p.samples} * patches) return;
  const int patch = static_cast<int>(thread % patches);
  const int64_t sample_here = thread / patches, sample = p.first_sample + sample_here;
  const int y = patch / p.query_tile.columns, x = patch % p.query_tile.columns;
  const Sum query_scale = p.query.scale[p.query.patch(sample, p.query_tile, y, x)];
  Candidates<Ranks, Sum> best;
  if (query_scale >= 0) {
    for (int slice = 0; slice < p.slices; slice++) {
      for (int rank = 0; rank < p.topk; rank++) {
        const int64_t place = ((sample_here * p.slices + slice) * p.topk + rank) * patches + patch;
        const Sum score = p.slice_score[place];
        const int64_t index = p.slice_index[place];
        // Candidates of a slice are in order: none that follows can be better.
        if (index < 0 || !goes_before(score, index, best.score[Ranks - 1], best.index[Ranks - 1])) break;
        best.offer(score, index);
      }
    }
  }
  const int64_t queries = p.query.tiling.patches(), number = p.query.patch(0, p.query_tile, y, x);
#pragma unroll
  for (int rank = 0; rank < Ranks; rank++) {
    if (rank >= p.topk) continue;
    const int64_t place = (sample * p.topk + rank) * queries + number;
    const bool is_finite = query_scale == query_scale;
    const Sum score = best.score[rank] * query_scale;
    p.index[place] = best.index[rank];
    if (p.ranking != nullptr) p.ranking[place] = best.score[rank];
    p.score[place] = !is_finite                                       ? query_scale
                     : best.index[rank] < 0                           ? -infinity<Sum>()
                     : p.query.metric == Metric::kL2 && !(score <= 0) ? Sum(0)
                                                                      : score;
  }
}

// ---- host side

template <class Element, class Sum>
struct DirectWork {
  const Element* query;  // [B][C][height][width], or [C][height][width] where the map is shared
  const Element* key;
  TilePair<Sum> pair;  // but for tiles, samples and memory
  int64_t samples;     // whose products are held at the same time
};

// The maps of a call; masks are null where all patches take part. is_shared: one map is that of all samples. Metric and
// weight are left to be set.
template <int P, class Sum>
DirectMap<Sum> direct_map(int64_t batch, bool is_shared, int64_t channels, int64_t height, int64_t width,
                          const bool* mask, int64_t most_cells = kMostTileCells) {
  DirectMap<Sum> map{};
  map.batch = batch;
  map.channels = channels;
  map.height = height;
  map.width = width;
  map.sample_stride = is_shared ? 0 : channels * height * width;
  map.mask = mask;
  map.tiling = tiling_of<P>(height, width, most_cells);
  map.cell_pitch = cell_pitch_of<P>(map.tiling);
  return map;
}

// Hands out all memory but that of results, and says how the batch is cut: for each cell of a map about 16 bytes (24
// for float64); at most kProductNumbers products; and for each query of one tile, at most kWantedThreads of them and
// their slices, topk candidates. For l2 a patch has 4 bytes (8) more.
template <class Element, class Sum, class Space>
void take_direct(Space& space, DirectWork<Element, Sum>& work) {
  TilePair<Sum>& p = work.pair;
  for (DirectMap<Sum>* map : {&p.query, &p.key}) {
    const int64_t tiles = map->batch * map->tiling.tiles();
    space.take(map->square, map->batch * map->height * map->width);
    space.take(map->scale, map->batch * map->tiling.patches());
    if (map->metric == Metric::kL2) space.take(map->bias, map->batch * map->tiling.patches());
    space.take(map->place, tiles * map->cell_pitch);
    space.take(map->cell, tiles * map->cell_pitch);
    space.take(map->count, tiles);
  }
  const int64_t products = int64_t{p.query.cell_pitch} * p.key.cell_pitch;
  work.samples = products == 0 ? p.query.batch : kProductNumbers / products;
  work.samples = work.samples < 1 ? 1 : work.samples > p.query.batch ? p.query.batch : work.samples;
  const int64_t queries = work.samples * p.query.tiling.tile_rows * p.query.tiling.tile_columns;
  const int64_t keys = p.key.tiling.tile_rows * p.key.tiling.tile_columns;
  int64_t slices = queries < kWantedThreads ? kWantedThreads / queries : 1;
  slices = slices < kMostSlices ? slices : kMostSlices;
  p.slices = static_cast<int>(slices < keys ? slices : keys);
  space.take(p.product, work.samples * products);
  space.take(p.slice_score, queries * p.slices * p.topk);
  space.take(p.slice_index, queries * p.slices * p.topk);
}

inline int64_t direct_blocks(int64_t threads) { return (threads + kDirectThreads - 1) / kDirectThreads; }

template <int P, class Element, class Sum, class Launch>
void measure_map(const Launch& launch, const Element* features, const DirectMap<Sum>& map) {
  const CellsOfMap<Element, Sum> cells{features, map};
  launch(square_cells<Element, Sum>, direct_blocks(map.batch * map.height * map.width), kDirectThreads, 0, cells);
  launch(scale_patches<P, Sum>, direct_blocks(map.batch * map.tiling.patches()), kDirectThreads, 0, map);
  launch(number_cells<P, Sum>, map.batch * map.tiling.tiles(), kNumberThreads, kNumberShared, map);
}

template <int P, int Ranks, class Element, class Sum, class Launch>
void match_tiles(const Launch& launch, const DirectWork<Element, Sum>& work) {
  TilePair<Sum> p = work.pair;
  p.patch_size = P;
  for (p.first_sample = 0; p.first_sample < p.query.batch; p.first_sample += work.samples) {
    const int64_t left = p.query.batch - p.first_sample;
    p.samples = static_cast<int>(left < work.samples ? left : work.samples);
    for (int64_t query_tile = 0; query_tile < p.query.tiling.tiles(); query_tile++) {
      p.query_tile = tile_of(p.query.tiling, query_tile);
      const int64_t queries = int64_t{p.samples} * p.query_tile.patches();
      for (int64_t key_tile = 0; key_tile < p.key.tiling.tiles(); key_tile++) {
        p.key_tile = tile_of(p.key.tiling, key_tile);
        p.is_first = key_tile == 0;
        multiply_cells(launch, CellProduct<Element, Sum>{work.query, work.key, p});
        launch(best_of_tile<P, Ranks, Sum>, direct_blocks(queries * p.slices), kDirectThreads, 0, p);
      }
      launch(best_of_slices<Ranks, Sum>, direct_blocks(queries), kDirectThreads, 0, p);
    }
  }
}

template <int P, class Element, class Sum, class Launch>
void match_direct(const Launch& launch, const DirectWork<Element, Sum>& work) {
  measure_map<P>(launch, work.query, work.pair.query);
  measure_map<P>(launch, work.key, work.pair.key);
  if (work.pair.topk == 1) return match_tiles<P, 1>(launch, work);
  if (work.pair.topk <= 4) return match_tiles<P, 4>(launch, work);
  match_tiles<P, kMostRanks>(launch, work);
}

}  // namespace patchswap
