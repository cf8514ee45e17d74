// The data that the kernels of the tensor-core match share: what each kernel writes and the next ones read.
//
//   prepare   packs both maps to half precision in the order of the tensor cores, takes norms, plans the query tiles
//   match     scores all pairs in half precision and keeps, for each query, the runs of keys that may hold its best key
//   rescore   scores those runs in float32 and writes index and score
//
// Letters: B samples, C channels, query map (B, C, height, width) and likewise the key map. Patches are 3 x 3. A cell
// is numbered row * width + column, a patch in the tensors of the caller row * (width - 2) + column.
//
// Scale. Half precision has a narrow range. Each map of each sample is therefore multiplied by a power of two, 2^shift,
// which brings typical values near 2^8. "Scaled" below means: multiplied by it. The choice of keys does not depend on
// it.
#pragma once

#include <cstdint>

#include "device.cuh"
#include "limits.cuh"

namespace patchswap {

constexpr int kPatch = 3;
constexpr int kTaps = kPatch * kPatch;
constexpr int kHalo = kPatch - 1;

constexpr int kUnit = 8;            // channels in 16 bytes, the unit of packing
constexpr int kChunk = 32;          // channels are padded with zeros to a multiple of this
constexpr int kSlots = 64;          // query cells in a group
constexpr int kGroupsInTile = 2;    // groups in a query tile
constexpr int kMostRows = 32;       // rows of queries below one slot, a bit each
constexpr int kRun = 8;             // keys in a run of candidates
constexpr int kMostKeys = 1 << 30;  // key patches of a sample, fewer than this

// One packed map. Cells of one unit of channels lie one behind the other, so that any stretch of cells, across the ends
// of rows too, is a contiguous piece.
struct PackedMap {
  Half* cells;    // [B][units][cell_pitch][kUnit] scaled, rounded to half; the cells behind the last one are zero
  float* exact;   // [B][cells][channels_padded] the features as given, in float32, channels last
  float* square;  // [B][cells] squared norm of each cell, as given
  float* error;   // [B][cells] squared norm of what rounding to half took from the scaled cell
  int64_t height, width, units, cell_pitch;  // cell_pitch >= height * width, a multiple of kUnit

  PATCHSWAP_HOST_DEVICE int64_t cell_count() const { return height * width; }
  PATCHSWAP_HOST_DEVICE int64_t rows() const { return height - kHalo; }
  PATCHSWAP_HOST_DEVICE int64_t columns() const { return width - kHalo; }
  PATCHSWAP_HOST_DEVICE int64_t patches() const { return rows() * columns(); }
};

// What one slot of a query group stands for: a cell and those `rows()` below it in turn.
struct Slot {
  int32_t cell;   // number of its topmost cell; any valid cell where the slot is unused
  int32_t patch;  // number of the patch whose top-left cell that is; 0 where there is none
  uint32_t rows;  // bit t: the patch t rows below takes part as a query; 0 for halo and unused slots
  int32_t unused;
};

// The query tiles of one sample. Slots s, s + 1, s + 2 of a group hold neighbouring cells of one row wherever slot s
// has any query, which is all that the kernels rely on: so slots kSlots - 2 and kSlots - 1 of a group never have one.
struct Plan {
  int32_t groups;  // groups in use; tiles are pairs of groups
  int32_t depth;   // query rows below each slot, 1 to kMostRows; slot.cell + (depth + 1) * width is inside the map
};

struct Problem {
  PackedMap query, key;  // the same pointers where both are one tensor
  int64_t batch, channels;
  const bool* query_mask;  // [B][query patches] or null
  const bool* key_mask;    // [B][key patches] or null

  // Of keys, by cell number of the top-left cell, so that a stretch of key cells has its factors in one piece:
  float* key_factor;  // [B][key cells] 1 / norm of the patch, as given; NaN where there is no patch that may be chosen
  int* key_shift;     // [B] binary exponent of the key map's scale
  int* worst_error;   // [B] bits of the largest error / norm of any key that may be chosen; starts at 0
  int* keys_from_first;  // [B] kMostKeys - lowest patch number that may be chosen; starts at 0: there is none
  // Of queries, by patch number:
  float* query_norm;      // [B][query patches] norm as given; 0 for a zero patch, NaN where not finite
  float* query_margin;    // [B][query patches] scaled: norm of the rounding error
  float* query_scaled;    // [B][query patches] scaled norm
  int* threshold;         // [B][query patches] ordered bits: a run below this holds no best key; see match
  int* list_count;        // [B][query patches] runs for its list, also those that did not fit; starts at 0
  int* list_place;        // [B][query patches] number of the list of a query that is searched for; in no fixed order
  int* list_user;         // [B * query patches] the query, counted over all samples, that has the list of this number
  int* list_users;        // [1] lists in use: queries that are searched for; starts at 0
  uint64_t* list;         // [list_capacity] runs listed, as list_entry packs them: lists of one length, by list_place
  uint64_t* best;         // [B][query patches] "fast" only, null otherwise: the best run so far; starts at 0
  int64_t list_capacity;  // runs in all lists, fewer than 2^31

  Plan* plan;   // [B]
  Slot* slots;  // [B][group_pitch][kSlots]
  int64_t group_pitch;

  int64_t* index;  // [B][query patches] results, by rescore, or by prepare where there is nothing to search for
  float* score;    // [B][query patches]
  float* ranking;  // [B][query patches] or null: of match_part, <q, k> / |k|, or -inf without a key
  int64_t* tally;  // [2] key patches scored in float32 after a coarse score; queries searched in full
};

// Lowest patch number of the sample's keys that may be chosen; -1 where there is none.
PATCHSWAP_DEVICE int first_key(const Problem& p, int sample) {
  const int keys = p.keys_from_first[sample];
  return keys == 0 ? -1 : kMostKeys - keys;
}

PATCHSWAP_DEVICE float power_of_two(int exponent) { return float_of(static_cast<uint32_t>(127 + exponent) << 23); }

// Float bits as an int of the same order (NaN aside).
PATCHSWAP_DEVICE int ordered(float value) {
  const int bits = static_cast<int>(bits_of(value));
  return bits >= 0 ? bits : bits ^ 0x7fffffff;
}
PATCHSWAP_DEVICE float from_ordered(int bits) {
  return float_of(static_cast<uint32_t>(bits >= 0 ? bits : bits ^ 0x7fffffff));
}

}  // namespace patchswap
