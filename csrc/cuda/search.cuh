// What every tensor-core search has in common: how the work is cut up, the rounding bound, and what becomes of a run of
// keys that may hold a query's best. The searches themselves, match_mma and match_wgmma, differ in the instructions
// that form the block of cell products.
//
// Work. A query tile (plan.cuh) is 2 x 64 slots; slot s stands for a query cell and the `depth` cells below it. Keys
// are taken by flat cell number, so a stretch of keys may run over the ends of rows; patches that do are marked by NaN
// in key_factor. One item is one tile and one diagonal: at step t the cells t rows below the slots meet the stretch of
// key cells that begins at first_cell + t * key width. Every pair of a query and a key lies on exactly one diagonal of
// its tile: for each t the stretches of all diagonals lie end to end.
//
// At step t the block c_t of cell products is one matrix product over the channels. Then
//   v_t = c_{t-2} + c_{t-1} + c_t               sums over the rows of a patch, the last two blocks being kept
//   v_t(s, u) + v_t(s+1, u+1) + v_t(s+2, u+2)   sums over its columns: <query patch, key patch>
// so each cell product is computed once and used nine times. Scores of all pairs are never stored: a thread takes the
// largest of kRun neighbouring keys for a query and compares it with the query's threshold.
//
// Exactness. With q~, k~ the scaled features rounded to half and e(.) the norm of what rounding took away, the computed
// score s~ of a pair differs from s = <q, k> / |k| by at most
//   bound(q) = e(q) + (|q| + e(q)) * (w + g (1 + w)),   w = the largest e(k) / |k|,   g = (C / 8 + 16) 2^-20
// by Cauchy-Schwarz on <q, k> - <q~, k~> = <q - q~, k> + <q~, k - k~>; g covers the additions in float32. Tensor cores
// add 8 exact products and the sum so far, each cut off at 2^-24 of the largest of the nine, and cut the result off at
// 2^-23 of itself (compute capability 8.x; later ones add 16 and cut off at 2^-25): at most 11 2^-24 for every 8
// channels. The sums over the taps and the factors follow. So the best key has s~ >= max s~ - 2 bound(q). `threshold`
// holds that right side, which only rises; a run that reaches it is listed, and all that `rescore` has to look at are
// listed runs that reach the final value. If a list is too short, the query is searched in full. Queries that are
// searched for have lists of one length: the fewer they are, the longer the lists.
#pragma once

#include <cstdint>

#include "candidate.cuh"
#include "device.cuh"
#include "problem.cuh"

namespace patchswap {

// Diagonals of a tile where stretches are `stretch` keys long.
PATCHSWAP_DEVICE int diagonal_count(const Problem& p, int depth, int stretch) {
  const int64_t positions = (p.key.rows() + depth - 1) * p.key.width;
  return static_cast<int>((positions + stretch - 1) / stretch);
}

// One item of work: a tile of a sample and a diagonal.
struct Item {
  int sample, tile, depth;
  int first_cell;  // flat key cell that meets the topmost cell of the slots; may be negative
};

// Item `number` of all samples' items in a row; false behind the last one. Neighbouring numbers are different tiles on
// one diagonal. Blocks at work at the same time then have different queries: each learns from the thresholds of items
// before, where blocks on one tile would all start from none. They also read the same keys. Maps with millions of cells
// have more items than 32 bits count.
PATCHSWAP_DEVICE bool item_at(const Problem& p, int64_t number, int stretch, Item& item) {
  for (int sample = 0; sample < p.batch; sample++) {
    const Plan plan = p.plan[sample];
    const int diagonals = diagonal_count(p, plan.depth, stretch);
    const int64_t tiles = (plan.groups + kGroupsInTile - 1) / kGroupsInTile, items = tiles * diagonals;
    if (number < items) {
      const int tile = static_cast<int>(number % tiles), diagonal = static_cast<int>(number / tiles);
      item = {sample, tile, plan.depth, diagonal * stretch - (plan.depth - 1) * static_cast<int>(p.key.width)};
      return true;
    }
    number -= items;
  }
  return false;
}

// The item that a block works on after `round` others: it takes every block_count()-th. False where none is left.
PATCHSWAP_DEVICE bool find_item(const Problem& p, int round, int stretch, Item& item) {
  return item_at(p, static_cast<int64_t>(round) * block_count() + block_index(), stretch, item);
}

// Slot `slot` of a group of the item's tile; one without queries where the tile has no such group.
PATCHSWAP_DEVICE Slot slot_of(const Problem& p, const Item& item, int group, int slot) {
  const int number = item.tile * kGroupsInTile + group;
  if (number >= p.plan[item.sample].groups) return Slot{0, 0, 0, 0};
  return p.slots[(item.sample * p.group_pitch + number) * kSlots + slot];
}

// First and last query row below the slots at which an item has both queries and keys; none where first > last.
struct RowRange {
  int first, last;
};

// `rows`: union of the slots' rows.
PATCHSWAP_DEVICE RowRange row_range(const Problem& p, const Item& item, uint32_t rows, int stretch) {
  RowRange range{0, item.depth - 1};
  const int width = static_cast<int>(p.key.width);
  const int key_end = static_cast<int>(p.key.rows()) * width;
  while (range.first <= range.last &&
         (!(rows >> range.first & 1u) || item.first_cell + range.first * width + stretch <= 0)) {
    range.first++;
  }
  while (range.first <= range.last && (!(rows >> range.last & 1u) || item.first_cell + range.last * width >= key_end)) {
    range.last--;
  }
  return range;
}

// Exact products that a tensor core adds at a time, the fewest of any that the searches run on; see above.
constexpr int kProductsAdded = 8;

// The factor w + g (1 + w) of the bound above.
PATCHSWAP_DEVICE float relative_bound(const Problem& p, int sample) {
  const float worst = float_of(static_cast<uint32_t>(p.worst_error[sample]));
  const float additions = static_cast<float>(p.query.units * kUnit / kProductsAdded + 16) * power_of_two(-20);
  return worst + additions * (1.0f + worst);
}

// Runs that the list of one query holds. At least one query must be searched for.
PATCHSWAP_DEVICE int list_length(const Problem& p) { return static_cast<int>(p.list_capacity) / *p.list_users; }

// The list of a query that is searched for.
PATCHSWAP_DEVICE uint64_t* list_of(const Problem& p, int64_t query, int length) {
  return p.list + p.list_place[query] * length;
}

// `best` is the best coarse score of some runs for query `query` (numbered over all samples), and reached its
// threshold. Raises the threshold, and returns what each of these runs has to reach to be kept. relative:
// relative_bound of the sample. It is called once for many runs, because each call waits for memory. The best run comes
// first, so that the others have to reach the higher threshold.
PATCHSWAP_DEVICE float raise_threshold(const Problem& p, int64_t query, float best, float relative) {
  float margin = 0.0f;  // "fast" keeps the best run only
  if (p.best == nullptr) {
    const float error = p.query_margin[query];
    margin = 2.0f * (error + (p.query_scaled[query] + error) * relative);
  }
  const float own = best - margin;
  return larger(own, from_ordered(atomic_max(p.threshold + query, ordered(own))));
}

// Reserves the next `count` places in the list of a query, and returns the first of them.
PATCHSWAP_DEVICE int reserve_places(const Problem& p, int64_t query, int count) {
  return p.best == nullptr ? atomic_add(p.list_count + query, count) : 0;
}

// Keeps a run in a reserved place, unless that lies behind the list's end. length: list_length.
PATCHSWAP_DEVICE void keep_run(const Problem& p, int64_t query, int place, float score, int first_cell, int length) {
  if (p.best != nullptr) {
    atomic_max(p.best + query, list_entry(score, first_cell));
  } else if (place < length) {
    list_of(p, query, length)[place] = list_entry(score, first_cell);
  }
}

}  // namespace patchswap
