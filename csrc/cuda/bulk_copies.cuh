// The producer of a search on Hopper and later: one warpgroup that copies the operands of every item, step and chunk of
// channels into shared memory, while others multiply. It depends on the plan and on the order of the packed maps only,
// not on the instructions that multiply. See search.cuh and hopper.cuh first.
//
// Each of the four copying warps owns one unit of channels of every chunk, as a warp takes tens of cycles to start one
// copy. Copies fill a ring of stages. Producer and consumers meet only at two barriers of each stage:
//
//   full[stage]   The stage's copies have arrived. Each copying warp announces its bytes, and the copies count them
//                 down.
//   empty[stage]  The consumers have read the stage. As many of them arrive as start_stages was told.
//
// Stages are written and read by the asynchronous proxy, so these barriers are all that they need. The exception is the
// first filling with zeros: slots that no query needs and cells beyond the map are not copied, and have to be defined.
//
// A stage holds one chunk of channels as [unit][cell][8 channels], the order of the packed maps. What is contiguous
// there is one copy: the stretch of key cells, and each piece of slots whose cells follow each other. 8 cells of one
// unit are a core matrix of the products.
#pragma once

#include <cstdint>

#include "hopper.cuh"
#include "search.cuh"
#include "warp.cuh"

namespace patchswap {
namespace copies {

constexpr int kCells = 128;               // key cells of an item at one step
constexpr int kStretch = kCells - kHalo;  // keys
constexpr int kUnitsInChunk = kChunk / kUnit;
constexpr int kCopyWarps = kWarpgroup / kWarp;
static_assert(kCopyWarps == kUnitsInChunk, "a copying warp has one unit of every chunk");
constexpr int kStages = 8;  // a power of two
static_assert(kSlots == 2 * kWarp, "a lane has two slots of a group");

// Places in a stage, in 16-byte words. A word is one unit of channels of one cell.
constexpr int kGroupWords = kUnitsInChunk * kSlots;
constexpr int kKeysInStage = kGroupsInTile * kGroupWords;
constexpr int kStageWords = kKeysInStage + kUnitsInChunk * kCells;

// A piece of slots whose cells follow each other: one copy.
struct alignas(16) Piece {
  int32_t place;  // of its first slot in a stage
  int32_t cell, count, unused;
};
constexpr int kMostPieces = kGroupsInTile * kSlots;

// Dynamic shared memory, in bytes; what a search has of its own begins at kBytes.
constexpr int kStagesAt = 0;                                       // Words [kStages][kStageWords]
constexpr int kPiecesAt = kStagesAt + kStages * kStageWords * 16;  // Piece [kCopyWarps][kMostPieces]
constexpr int kBarriersAt = kPiecesAt + kCopyWarps * kMostPieces * 16;
constexpr int kBytes = kBarriersAt + 2 * kStages * 8;  // uint64_t [2][kStages]: full, empty
static_assert(kBytes % 16 == 0);

PATCHSWAP_DEVICE Shared<Words> stages() { return shared_memory<Words>(kStagesAt, kStages * kStageWords); }
PATCHSWAP_DEVICE Shared<uint64_t> barriers() { return shared_memory<uint64_t>(kBarriersAt, 2 * kStages); }

// Chunks are numbered over all items of a block. Where chunk n is, and for how many chunks the stage was used before.
PATCHSWAP_DEVICE int stage_of(unsigned n) { return static_cast<int>(n % kStages); }
PATCHSWAP_DEVICE int round_of(unsigned n) { return static_cast<int>(n / kStages); }
PATCHSWAP_DEVICE int full(int stage) { return stage; }
PATCHSWAP_DEVICE int empty(int stage) { return kStages + stage; }

// Starts the barriers and fills the stages with zeros. All `threads` threads of the block call it. releases: arrivals
// that make a stage empty.
PATCHSWAP_DEVICE void start_stages(int threads, int releases) {
  for (int i = thread_index(); i < kStages * kStageWords; i += threads) stages().store_words(i, Words{{0, 0, 0, 0}});
  if (thread_index() == 0) {
    for (int stage = 0; stage < kStages; stage++) {
      start_copy_barrier(barriers(), full(stage), kCopyWarps);
      start_copy_barrier(barriers(), empty(stage), releases);
    }
    fence_for_started_barriers();
  }
  fence_for_async_proxy();
  block_barrier();
}

// Bits of 64 slots, of which a lane has one in each half.
PATCHSWAP_DEVICE uint64_t ballot_of_slots(bool low, bool high) {
  const uint32_t bits = ballot(low);
  return static_cast<uint64_t>(ballot(high)) << kWarp | bits;
}
PATCHSWAP_DEVICE int count_slots(uint64_t bits) {
  return count_bits(static_cast<uint32_t>(bits)) + count_bits(static_cast<uint32_t>(bits >> kWarp));
}
PATCHSWAP_DEVICE uint64_t bits_below(int bit) { return (uint64_t(1) << bit) - 1; }

// What to copy for an item's queries at every step.
struct Pieces {
  int count, slots;  // slots in all of them
  uint32_t rows;     // in which any slot of the tile has a query
};

// Fills the table of pieces with those of the slots that a query needs.
PATCHSWAP_DEVICE Pieces find_pieces(const Problem& p, const Item& item, Shared<Piece> table) {
  const int lane = thread_index() % kWarp;
  Pieces pieces{0, 0, 0};
  warp_barrier();  // the table of the item before has been read
#pragma unroll 1
  for (int group = 0; group < kGroupsInTile; group++) {
    const Slot low = slot_of(p, item, group, lane), high = slot_of(p, item, group, lane + kWarp);
    pieces.rows |= low.rows | high.rows;
    const uint64_t used = ballot_of_slots(low.rows != 0, high.rows != 0), needed = used | used << 1 | used << 2;
    const int before_low = shuffle(low.cell, lane - 1), before_high = shuffle(high.cell, lane - 1);
    const uint64_t follows =
        ballot_of_slots(lane > 0 && low.cell == before_low + 1, high.cell == (lane > 0 ? before_high : before_low) + 1);
    const uint64_t begins = needed & ~(follows & needed << 1), ends = begins | ~needed;
    for (int half = 0; half < 2; half++) {
      const int slot = half * kWarp + lane;
      if (!(begins >> slot & 1)) continue;
      const uint64_t ends_above = ends & ~bits_below(slot) & ~(uint64_t(1) << slot);
      const int end = count_slots((ends_above & (0 - ends_above)) - 1);  // 64 where there is none
      table.store(pieces.count + count_slots(begins & bits_below(slot)),
                  Piece{group * kGroupWords + slot, half == 0 ? low.cell : high.cell, end - slot, 0});
    }
    pieces.count += count_slots(begins);
    pieces.slots += count_slots(needed);
  }
  warp_barrier();
  pieces.rows = union_of_warp(pieces.rows);
  return pieces;
}

// All that a copying warp does. The first warpgroup of the block calls it.
PATCHSWAP_DEVICE void copy_all(const Problem& p) {
  const int lane = thread_index() % kWarp, own_unit = shuffle(thread_index() / kWarp, 0);
  const Shared<Piece> table = shared_memory<Piece>(kPiecesAt + own_unit * kMostPieces * 16, kMostPieces);
  const int query_width = static_cast<int>(p.query.width), key_width = static_cast<int>(p.key.width);
  const int key_cells = static_cast<int>(p.key.cell_count()), units = static_cast<int>(p.query.units);
  unsigned n = 0;  // chunk to be copied next
  Item item;
  for (int round = 0; find_item(p, round, kStretch, item); round++) {
    const Pieces pieces = find_pieces(p, item, table);
    const RowRange range = row_range(p, item, pieces.rows, kStretch);
    if (range.first > range.last) continue;
    for (int step = range.first; step <= range.last + kHalo; step++) {
      // Cells of the stretch that are in the map. There are some at every step of an item.
      const int start = item.first_cell + step * key_width;
      const int begin = start > 0 ? start : 0, end = start + kCells < key_cells ? start + kCells : key_cells;
      for (int unit = item.sample * units; unit < (item.sample + 1) * units; unit += kUnitsInChunk, n++) {
        const int stage = stage_of(n);
        wait_at_copy_barrier(barriers(), empty(stage), (round_of(n) + 1) % 2);  // passes at once in the first round
        if (lane == 0) arrive_and_announce(barriers(), full(stage), (pieces.slots + end - begin) * 16);
        warp_barrier();  // no copy before its bytes are announced

        // The loop has one copy in it, for pieces and for the stretch: lanes would issue two one after the other.
#pragma unroll 1
        for (int i = lane; i <= pieces.count; i += kWarp) {
          const Half* cells = p.key.cells;
          int place = kKeysInStage + own_unit * kCells + begin - start, count = end - begin;
          int word = (unit + own_unit) * static_cast<int>(p.key.cell_pitch) + begin;  // the caller keeps it in 32 bits
          if (i < pieces.count) {
            const Piece piece = table.load(i);
            cells = p.query.cells;
            place = piece.place + own_unit * kSlots;
            count = piece.count;
            word = (unit + own_unit) * static_cast<int>(p.query.cell_pitch) + piece.cell + step * query_width;
          }
          bulk_copy_async(stages(), stage * kStageWords + place, cells + static_cast<int64_t>(word) * kUnit, count * 16,
                          barriers(), full(stage));
        }
      }
    }
  }
}

}  // namespace copies
}  // namespace patchswap
