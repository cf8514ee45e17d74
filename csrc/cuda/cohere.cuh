// cohere on the GPU. Not measured on a GPU yet.
//
//   lay_cells      one launch for each map: a copy with the channels of a cell side by side, in the type of sums
//   cohere_sweep   one launch for each sweep; a warp has a query
//
// A block of cohere_sweep has a tile of queries, whose candidates share many cells in the first-level cache. The lanes
// of a warp are slots: the first ones hold the own offsets of its query, the next eight those of its neighbours. Lanes
// compare what they hold, each distinct offset is scored by the whole warp, and the best slot wins, the first of equal
// ones. The scores that a query has worked out are kept for the next sweep, which finds most of its candidates
// among them. So the first sweep has most of the work, and the others mostly wait for memory.
//
// Offsets do not occur as such: a neighbour at distance d proposes its own key less d.
#pragma once

#include <cstdint>

#include "../metric.h"
#include "device.cuh"
#include "inverse_norm.cuh"
#include "limits.cuh"
#include "numbers.cuh"
#include "warp.cuh"

namespace patchswap {

constexpr int kLayThreads = 256;
constexpr int kLayTile = 32;  // cells, and channels, of a block
constexpr int kLayPitch = kLayTile + 1;
constexpr int kLayShared = kLayTile * kLayPitch * static_cast<int>(sizeof(double));  // bytes, whatever the sums are
constexpr int kSweepThreads = 256;
constexpr int kSweepRows = 2, kSweepColumns = 4;  // queries of a block, a warp each
static_assert(kSweepRows * kSweepColumns * kWarp == kSweepThreads);
constexpr int kNeighbours = 8;
constexpr int kMostSlots = 8 + kNeighbours;
constexpr int64_t kMostCohereCells = 1 << 30;  // of one channel of one sample, which are counted in 32 bits

// A (B, C, height, width) map of any strides, which count numbers.
template <class Element>
struct StridedMap {
  const Element* features;
  int64_t strides[4];
  int channels, height, width;

  PATCHSWAP_HOST_DEVICE int cells() const { return height * width; }
  PATCHSWAP_HOST_DEVICE int cell_tiles() const { return (cells() + kLayTile - 1) / kLayTile; }
};

// What a cell takes in the copy, in whole groups of Numbers; those behind the last channel are zero.
template <class Sum>
PATCHSWAP_HOST_DEVICE int padded_channels(int64_t channels) {
  constexpr int kCount = Numbers<Sum>::kCount;
  return static_cast<int>((channels + kCount - 1) / kCount * kCount);
}

PATCHSWAP_HOST_DEVICE int channel_tiles(int pitch) { return (pitch + kLayTile - 1) / kLayTile; }

// Grid: batch * cell tiles * channel tiles blocks of kLayThreads threads. copy: [B][cells][pitch].
template <class Element, class Sum>
PATCHSWAP_KERNEL(kLayThreads)
lay_cells(const StridedMap<Element> map, int pitch, Sum* copy) {
  const Shared<Sum> tile = shared_memory<Sum>(0, kLayTile * kLayPitch);
  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp;
  const int first_channel = block_index() % channel_tiles(pitch) * kLayTile;
  const int cell_tile = block_index() / channel_tiles(pitch), first_cell = cell_tile % map.cell_tiles() * kLayTile;
  const int64_t sample = cell_tile / map.cell_tiles();
  const int cell = first_cell + lane;
  if (cell < map.cells()) {
    const Element* from =
        map.features + sample * map.strides[0] + cell / map.width * map.strides[2] + cell % map.width * map.strides[3];
    for (int i = warp; i < kLayTile; i += kLayThreads / kWarp) {
      const int channel = first_channel + i;
      tile.store(i * kLayPitch + lane,
                 channel < map.channels ? static_cast<Sum>(from[channel * map.strides[1]]) : Sum(0));
    }
  }
  block_barrier();  // the tile is there
  const int channel = first_channel + lane;
  for (int i = warp; i < kLayTile; i += kLayThreads / kWarp) {
    if (first_cell + i < map.cells() && channel < pitch) {
      copy[(sample * map.cells() + first_cell + i) * pitch + channel] = tile.load(lane * kLayPitch + i);
    }
  }
}

// A key by its place in the key's patch grid; row -1 is none.
struct KeyPlace {
  int row, column;

  PATCHSWAP_DEVICE bool is_none() const { return row < 0; }
  PATCHSWAP_DEVICE bool is(KeyPlace other) const { return row == other.row && column == other.column; }
};
PATCHSWAP_DEVICE KeyPlace no_place() { return {-1, -1}; }

PATCHSWAP_DEVICE KeyPlace shuffle(KeyPlace place, int lane) {
  return {shuffle(place.row, lane), shuffle(place.column, lane)};
}

// Rows and columns count patches.
template <class Sum>
struct CohereWork {
  const int64_t* given;    // [B][ranks][queries]
  const bool* query_mask;  // [B][queries] or null
  const bool* key_mask;    // [B][keys] or null
  const Sum* query_cells;  // [B][query cells][pitch]
  const Sum* key_cells;    // [B][key cells][pitch]
  int64_t batch;
  int rows, columns, key_rows, key_columns;
  int patch_size, ranks, pitch;
  double weight;
  Metric metric;
  KeyPlace* places[2];     // [B][queries] written by sweeps in turn, the odd ones the second
  KeyPlace* known_places;  // [B][queries][kMostSlots] candidates of the sweep before
  Sum* known;              // [B][queries][kMostSlots] and their scores
  int64_t* index;          // [B][queries] results
  Sum* score;              // [B][queries]

  PATCHSWAP_HOST_DEVICE int queries() const { return rows * columns; }
  PATCHSWAP_HOST_DEVICE int width() const { return columns + patch_size - 1; }
  PATCHSWAP_HOST_DEVICE int key_width() const { return key_columns + patch_size - 1; }
  PATCHSWAP_HOST_DEVICE int tiles_along() const { return (columns + kSweepColumns - 1) / kSweepColumns; }
  PATCHSWAP_HOST_DEVICE int tiles() const { return (rows + kSweepRows - 1) / kSweepRows * tiles_along(); }

  PATCHSWAP_DEVICE bool may_be_chosen(int64_t sample, KeyPlace key) const {
    if (key.row < 0 || key.row >= key_rows || key.column < 0 || key.column >= key_columns) return false;
    const int64_t keys = static_cast<int64_t>(key_rows) * key_columns;
    return key_mask == nullptr || key_mask[sample * keys + key.row * key_columns + key.column];
  }
  PATCHSWAP_DEVICE KeyPlace given_rank(int64_t sample, int rank, int query) const {
    const int64_t key = given[(sample * ranks + rank) * queries() + query];
    if (key < 0 || key >= static_cast<int64_t>(key_rows) * key_columns) return no_place();
    const KeyPlace place = {static_cast<int>(key) / key_columns, static_cast<int>(key) % key_columns};
    return may_be_chosen(sample, place) ? place : no_place();
  }
  // What a query had before a sweep: of the first one the given key of this rank.
  PATCHSWAP_DEVICE KeyPlace place_before(int sweep, int64_t sample, int rank, int query) const {
    const int64_t at = sample * queries() + query;
    if (sweep > 1) return places[(sweep - 1) % 2][at];
    if (query_mask != nullptr && !query_mask[at]) return no_place();
    const KeyPlace first = given_rank(sample, 0, query);
    return rank == 0 || first.is_none() ? first : given_rank(sample, rank, query);
  }
  // What a neighbour, 0 to 7 in row-major order, proposes to the query at (row, column).
  PATCHSWAP_DEVICE KeyPlace proposal(int sweep, int64_t sample, int rank, int row, int column, int neighbour) const {
    const int around = neighbour < 4 ? neighbour : neighbour + 1;
    const int down = around / 3 - 1, right = around % 3 - 1, y = row + down, x = column + right;
    if (y < 0 || y >= rows || x < 0 || x >= columns) return no_place();
    const KeyPlace key = place_before(sweep, sample, rank, y * columns + x);
    const KeyPlace moved = {key.row - down, key.column - right};
    return !key.is_none() && may_be_chosen(sample, moved) ? moved : no_place();
  }
};

// The score of a query's patch with a key's, by all lanes of a warp: for all patches in one order of sums.
template <class Sum>
PATCHSWAP_DEVICE Sum score_of(const CohereWork<Sum>& work, int64_t sample, int row, int column, KeyPlace key) {
  constexpr int kCount = Numbers<Sum>::kCount;
  const int height = work.rows + work.patch_size - 1, key_height = work.key_rows + work.patch_size - 1;
  const int pieces = work.patch_size * work.pitch / kCount;  // of a row of a patch
  const int64_t cell = sample * height * work.width() + row * work.width() + column;
  const int64_t key_cell = sample * key_height * work.key_width() + key.row * work.key_width() + key.column;
  const Sum* left_row = work.query_cells + cell * work.pitch;
  const Sum* right_row = work.key_cells + key_cell * work.pitch;
  Sum product[kCount] = {}, left_square[kCount] = {}, right_square[kCount] = {};
#pragma unroll 1
  for (int y = 0; y < work.patch_size; y++) {
#pragma unroll 4
    for (int i = thread_index() % kWarp; i < pieces; i += kWarp) {
      const Numbers<Sum> left = reinterpret_cast<const Numbers<Sum>*>(left_row)[i];
      const Numbers<Sum> right = reinterpret_cast<const Numbers<Sum>*>(right_row)[i];
#pragma unroll
      for (int n = 0; n < kCount; n++) {
        product[n] += left.number[n] * right.number[n];
        left_square[n] += left.number[n] * left.number[n];
        right_square[n] += right.number[n] * right.number[n];
      }
    }
    left_row += static_cast<int64_t>(work.width()) * work.pitch;
    right_row += static_cast<int64_t>(work.key_width()) * work.pitch;
  }
#pragma unroll
  for (int n = 1; n < kCount; n++) {
    product[0] += product[n];
    left_square[0] += left_square[n];
    right_square[0] += right_square[n];
  }
  const Sum whole = sum_of_warp(product[0]), left = sum_of_warp(left_square[0]), right = sum_of_warp(right_square[0]);
  // The sum keeps the product from being contracted with what is added to it later, in some uses and not in others.
  const Sum correlation = whole * inverse_norm(right) * inverse_norm(left) + Sum(0);
  if (work.metric == Metric::kNcc || !(correlation == correlation)) return correlation;
  if (work.metric == Metric::kDot) return whole;
  const Sum score = 2 * whole - right - left;
  return score < 0 ? score : Sum(0);
}

// Grid: batch * tiles blocks of kSweepThreads threads. Sweeps count from 1; in sweep 0 all keep what they were given.
template <class Sum>
PATCHSWAP_KERNEL(kSweepThreads)
cohere_sweep(const CohereWork<Sum> work, int sweep) {
  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp, tile = block_index() % work.tiles();
  const int64_t sample = block_index() / work.tiles();
  const int row = tile / work.tiles_along() * kSweepRows + warp / kSweepColumns;
  const int column = tile % work.tiles_along() * kSweepColumns + warp % kSweepColumns;
  if (row >= work.rows || column >= work.columns) return;
  const int query = row * work.columns + column;
  const int64_t at = sample * work.queries() + query;
  const KeyPlace own = work.place_before(sweep, sample, 0, query);
  if (own.is_none()) {
    if (lane == 0) {
      work.places[sweep % 2][at] = no_place();
      work.index[at] = -1;
      work.score[at] = -infinity<Sum>();
    }
    return;
  }

  // What this lane's slot holds; which neighbours agree with it; whether an earlier slot holds the same.
  const int ranks = sweep == 1 ? work.ranks : 1, slots = sweep == 0 ? 1 : ranks + kNeighbours;
  const int neighbour = lane - ranks;
  const bool is_neighbour = neighbour >= 0 && lane < slots;
  KeyPlace mine = no_place();
  if (lane == 0) mine = own;
  if (lane > 0 && lane < ranks) mine = work.place_before(sweep, sample, lane, query);
  if (is_neighbour) mine = work.proposal(sweep, sample, 0, row, column, neighbour);
  uint32_t agreeing = 0;
  bool is_repeated = false;
#pragma unroll 1
  for (int slot = 0; slot < slots; slot++) {
    const bool is_same = mine.is(shuffle(mine, slot));
    if (slot >= ranks && is_same) agreeing |= 1u << (slot - ranks);
    is_repeated |= slot < lane && is_same;
  }
#pragma unroll 1
  for (int rank = 1; rank < ranks; rank++) {
    const KeyPlace further = is_neighbour ? work.proposal(sweep, sample, rank, row, column, neighbour) : no_place();
#pragma unroll 1
    for (int n = 0; n < kNeighbours; n++) {
      if (mine.is(shuffle(further, ranks + n))) agreeing |= 1u << n;
    }
  }
  const bool is_candidate = lane < slots && !mine.is_none() && !is_repeated;

  // Its score: from the sweep before, or worked out by the whole warp.
  const int64_t known_at = at * kMostSlots + lane;
  Sum found = 0;
  bool is_known = false;
  if (sweep > 1) {
    const KeyPlace known_place = lane < kMostSlots ? work.known_places[known_at] : no_place();
    const Sum known = lane < kMostSlots ? work.known[known_at] : Sum(0);
#pragma unroll 1
    for (int slot = 0; slot < kMostSlots; slot++) {
      const KeyPlace place = shuffle(known_place, slot);
      const Sum value = shuffle(known, slot);
      if (mine.is(place)) {
        found = value;
        is_known = true;
      }
    }
  }
#pragma unroll 1
  for (uint32_t missing = ballot(is_candidate && !is_known); missing != 0; missing &= missing - 1) {
    const int slot = lowest_bit(missing);
    const Sum value = score_of(work, sample, row, column, shuffle(mine, slot));
    if (lane == slot) found = value;
  }

  const Sum value = found + static_cast<Sum>(work.weight * count_bits(agreeing) / kNeighbours);
  const uint32_t candidates = ballot(is_candidate);
  int best = 0;
  Sum best_value = shuffle(value, 0);
#pragma unroll 1
  for (int slot = 1; slot < slots; slot++) {
    const Sum other = shuffle(value, slot);
    if ((candidates >> slot & 1) != 0 && other > best_value) {
      best = slot;
      best_value = other;
    }
  }
  if (lane < kMostSlots) {
    work.known_places[known_at] = is_candidate ? mine : no_place();
    work.known[known_at] = found;
  }
  if (lane == best) {
    work.places[sweep % 2][at] = mine;
    work.index[at] = static_cast<int64_t>(mine.row) * work.key_columns + mine.column;
    work.score[at] = found;
  }
}

}  // namespace patchswap
