// The plan of one sample: which query cells the match kernel works on, and how many query rows each of them stands for.
//
// Queries are the True entries of a mask and may lie anywhere. The rows that have any are cut into bands of `depth`
// rows. In a band, a column of patches with a query in it needs the cells of three columns; the needed (band, column)
// pairs, band by band and columns ascending, are the list of slots. A query at place i of the list has its right
// neighbours at i + 1 and i + 2, because its own patch needs them. Groups of kSlots slots are cut from the list with an
// overlap of kHalo, so that this holds within groups too; the overlap has queries only in the group that begins with
// it.
//
// Deep bands do fewer products per query (depth + 2 steps for depth rows) but match fewer keys at a time and include
// cells that no query needs; which depth is fastest depends on the mask, so all are modelled and the fastest is taken.
//
// One block of kPlanThreads threads makes the plan of one sample. The mask is read once, into bits: a word holds 32
// rows of one column. The block alone writes and reads these words.
#pragma once

#include <cstdint>

#include "device.cuh"
#include "problem.cuh"
#include "search.cuh"
#include "warp.cuh"

namespace patchswap {

constexpr int kPlanThreads = 256;
constexpr int kPlanWarps = kPlanThreads / kWarp;
constexpr int kBits = 32;                              // rows in a word
constexpr int kSlotsWithQueries = kSlots - kHalo;      // slots of a group that may have queries
constexpr int kPlanShared = (kPlanWarps + 1) * kWarp;  // words of shared memory that plan_queries uses

static_assert(kMostRows == kWarp, "a lane models the depth lane + 1");
static_assert(kMostRows <= kBits, "a band is cut out of two neighbouring words");

// Words for the rows of a column: one more than they fill, so that a band can always be cut out of two of them.
constexpr int64_t plan_bit_words(int64_t rows) { return (rows + kBits - 1) / kBits + 1; }

// Words of workspace, for a query map of `rows` rows of patches and `width` cells.
constexpr int64_t plan_workspace(int64_t batch, int64_t rows, int64_t width) {
  return batch * 2 * plan_bit_words(rows) * width;
}

// Groups that suffice for any mask, made even as tiles are pairs. Bands of one row have at most `width` slots each,
// rows * width in all; a band of several rows has at most as many as its rows would have as bands of their own. Of
// n slots the last kHalo have no query, so n - kHalo, rounded up to whole groups, would do.
constexpr int64_t plan_group_pitch(int64_t rows, int64_t width) {
  const int64_t groups = (rows * width + kSlotsWithQueries - 1) / kSlotsWithQueries;
  return (groups + kGroupsInTile - 1) / kGroupsInTile * kGroupsInTile;
}

// What the modelled time depends on, next to the mask.
struct PlanCost {
  int key_stride;        // keys of a stretch in the search that will run
  int64_t match_blocks;  // its blocks at work at the same time
};

// The active queries of one sample as bits: bit t of word w is row w * kBits + t.
struct QueryBits {
  // [bit_words][width] each: the queries of a column of patches, 0 beyond the last column; and those that need the
  // cells of this column, which are its own and those of its two left neighbours.
  uint32_t *own, *reached;
  int width;

  // `depth` rows from `first` on, as the low bits of a word.
  PATCHSWAP_DEVICE uint32_t band(const uint32_t* bits, int column, int first, int depth) const {
    const uint32_t* word = bits + static_cast<int64_t>(first / kBits) * width + column;
    const uint64_t two_words = static_cast<uint64_t>(word[width]) << kBits | word[0];
    return static_cast<uint32_t>(two_words >> (first % kBits)) & (kAllLanes >> (kBits - depth));
  }
};

// Bits 0, step, 2 step, ...
PATCHSWAP_HOST_DEVICE constexpr uint32_t every_bit(int step) {
  uint32_t bits = 0;
  for (int bit = 0; bit < kBits; bit += step) bits |= 1u << bit;
  return bits;
}

// Fills p.plan[sample] and p.slots[sample]. All kPlanThreads threads of the block call it.
// workspace: [B][2][bit_words][width] words, need not be initialised. scratch: kPlanShared words.
PATCHSWAP_DEVICE void plan_queries(const Problem& p, const PlanCost& cost, int sample, uint32_t* workspace,
                                   Shared<int> scratch) {
  const int rows = static_cast<int>(p.query.rows()), columns = static_cast<int>(p.query.columns());
  const int width = static_cast<int>(p.query.width), words = (rows + kBits - 1) / kBits + 1;
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  uint32_t* own = workspace + static_cast<int64_t>(sample) * 2 * words * width;
  const QueryBits bits{own, own + static_cast<int64_t>(words) * width, width};

  // The mask as bits, and the rows between which queries lie. Neighbouring threads read neighbouring columns.
  const bool* mask = p.query_mask == nullptr ? nullptr : p.query_mask + sample * p.query.patches();
  int highest = -1, lowest_negated = -rows;  // as both are found by taking the largest
  for (int i = thread; i < words * width; i += kPlanThreads) {
    const int first = i / width * kBits, column = i % width;
    const int present = column < columns && first < rows ? (rows - first < kBits ? rows - first : kBits) : 0;  // rows
    uint32_t word = kAllLanes;
    if (mask != nullptr) {
      word = 0;
#pragma unroll
      for (int t = 0; t < kBits; t++) {
        // No load depends on another, so that all are under way at once. Absent ones read an entry that is there.
        const int64_t entry = t < present ? static_cast<int64_t>(first + t) * columns + column : 0;
        word |= static_cast<uint32_t>(mask[entry]) << t;
      }
    }
    word &= present < kBits ? (1u << present) - 1 : kAllLanes;
    bits.own[i] = word;
    if (word != 0) {
      const int low = first + lowest_bit(word), high = first + highest_bit(word);
      highest = high > highest ? high : highest;
      lowest_negated = -low > lowest_negated ? -low : lowest_negated;
    }
  }
  highest = largest_of_warp(highest);
  lowest_negated = largest_of_warp(lowest_negated);
  if (lane == 0) {
    scratch.store(warp, highest);
    scratch.store(kPlanWarps + warp, lowest_negated);
  }
  block_barrier();
  for (int i = 0; i < kPlanWarps; i++) {
    const int other_highest = scratch.load(i), other_lowest_negated = scratch.load(kPlanWarps + i);
    highest = other_highest > highest ? other_highest : highest;
    lowest_negated = other_lowest_negated > lowest_negated ? other_lowest_negated : lowest_negated;
  }
  const int top = -lowest_negated, bottom = highest + 1;  // rows [top, bottom) have the queries
  for (int i = thread; i < words * width; i += kPlanThreads) {
    const int column = i % width;
    bits.reached[i] = bits.own[i] | (column >= 1 ? bits.own[i - 1] : 0) | (column >= 2 ? bits.own[i - 2] : 0);
  }
  block_barrier();
  if (bottom <= top) {
    if (thread == 0) p.plan[sample] = Plan{0, 1};
    return;
  }

  // Slots for every depth. A thread takes words, and in each the bands that begin there.
  const int most_depth = bottom - top < kMostRows ? bottom - top : kMostRows;
  const int first_word = top / kBits, word_count = (bottom - 1) / kBits + 1 - first_word;
  int slots_of[kMostRows] = {};
  for (int i = thread; i < word_count * width; i += kPlanThreads) {
    const uint32_t* word = bits.reached + static_cast<int64_t>(first_word) * width + i;
    const uint64_t two_words = static_cast<uint64_t>(word[width]) << kBits | word[0];
    if (two_words == 0) continue;
    const int below_top = (first_word + i / width) * kBits - top;  // rows; negative where the word begins above it
    uint32_t any = 0;  // bit t: `depth` rows from the word's row t on have a query
#pragma unroll
    for (int depth = 1; depth <= kMostRows; depth++) {
      any |= static_cast<uint32_t>(two_words >> (depth - 1));
      const int first_band = below_top > 0 ? depth - 1 - (below_top - 1) % depth : -below_top;
      slots_of[depth - 1] += count_bits(any & every_bit(depth) << first_band);
    }
  }
  int slots_of_depth = 0;  // in lane depth - 1
#pragma unroll
  for (int i = 0; i < kMostRows; i++) {
    const int sum = sum_of_warp(slots_of[i]);
    if (lane == i) slots_of_depth = sum;
  }
  scratch.store(kWarp + thread, slots_of_depth);
  block_barrier();

  // Modelled time of depth lane + 1: the rounds of work that the busiest block has, times the steps in each. Every warp
  // finds the same best depth, so it needs no exchange between warps.
  const int own_depth = lane + 1;
  int slots = 0;
  for (int i = 0; i < kPlanWarps; i++) slots += scratch.load(kWarp + i * kWarp + lane);
  const int groups = (slots - kHalo + kSlotsWithQueries - 1) / kSlotsWithQueries;
  const int64_t tiles = (groups + kGroupsInTile - 1) / kGroupsInTile;
  const int64_t items = p.batch * tiles * diagonal_count(p, own_depth, cost.key_stride);
  const int64_t rounds = (items + cost.match_blocks - 1) / cost.match_blocks;
  // Float, as that is what lanes can exchange; steps of one part in 2^24 are finer than the model.
  float time = static_cast<float>(rounds * (own_depth + kHalo));
  if (own_depth > most_depth) time = infinity();
  int depth = own_depth, slots_in_list = slots;
  for (int mask_bit = kWarp / 2; mask_bit > 0; mask_bit /= 2) {
    const float other_time = shuffle_xor(time, mask_bit);
    const int other_depth = shuffle_xor(depth, mask_bit), other_slots = shuffle_xor(slots_in_list, mask_bit);
    if (other_time < time || (other_time == time && other_depth > depth)) {
      time = other_time;
      depth = other_depth;
      slots_in_list = other_slots;
    }
  }
  const int groups_in_use = (slots_in_list - kHalo + kSlotsWithQueries - 1) / kSlotsWithQueries;
  Slot* sample_slots = p.slots + sample * p.group_pitch * kSlots;

  // The list. Each warp takes one piece of all (band, column) pairs: it counts its slots, learns where they begin in
  // the list from the counts of the warps before, and writes them. Lanes take neighbouring pairs.
  const int bands = (bottom - top + depth - 1) / depth;
  const int pairs = bands * width, piece = (pairs + kPlanThreads - 1) / kPlanThreads * kWarp;
  const int piece_begin = warp * piece, piece_end = piece_begin + piece < pairs ? piece_begin + piece : pairs;
  int place = 0;  // in the list, of the warp's next slot
  for (int pass = 0; pass < 2; pass++) {
    int band = (piece_begin + lane) / width, column = (piece_begin + lane) % width;
    for (int first = piece_begin; first < piece_end; first += kWarp) {
      const int band_top = top + band * depth;
      const bool is_slot = first + lane < piece_end && bits.band(bits.reached, column, band_top, depth) != 0;
      const uint32_t slot_lanes = ballot(is_slot);
      if (pass == 1 && is_slot) {
        // The last band begins higher up, so that all of its rows are in the map; rows that are not its own stay off.
        const int moved = band_top + depth > bottom ? band_top + depth - bottom : 0;
        Slot slot;
        slot.cell = (band_top - moved) * width + column;
        slot.patch = column < columns ? (band_top - moved) * columns + column : 0;
        slot.rows = bits.band(bits.own, column, band_top, depth) << moved;
        slot.unused = 0;
        const int i = place + count_bits(slot_lanes & ((1u << lane) - 1));
        const int group = i / kSlotsWithQueries, in_group = i % kSlotsWithQueries;
        if (group < groups_in_use) sample_slots[static_cast<int64_t>(group) * kSlots + in_group] = slot;
        if (group > 0 && in_group < kHalo) {
          slot.rows = 0;
          sample_slots[static_cast<int64_t>(group - 1) * kSlots + kSlotsWithQueries + in_group] = slot;
        }
      }
      place += count_bits(slot_lanes);
      for (column += kWarp; column >= width; column -= width) band++;
    }
    if (pass == 0) {
      if (lane == 0) scratch.store(warp, place);
      block_barrier();
      place = 0;
      for (int i = 0; i < warp; i++) place += scratch.load(i);
    }
  }

  // What is left of the last group, and the second group of the last tile.
  const int tiles_in_use = (groups_in_use + kGroupsInTile - 1) / kGroupsInTile;
  const int used = (groups_in_use - 1) * kSlots + slots_in_list - (groups_in_use - 1) * kSlotsWithQueries;
  for (int i = used + thread; i < tiles_in_use * kGroupsInTile * kSlots; i += kPlanThreads) {
    sample_slots[i] = Slot{0, 0, 0, 0};
  }
  if (thread == 0) p.plan[sample] = Plan{groups_in_use, depth};
}

}  // namespace patchswap
