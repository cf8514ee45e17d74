// The search for compute capability 8.0 and later: mma.sync on tiles that cp.async brings in. See search.cuh first.
//
// A block of 8 warps works on one item: 2 groups of 64 query slots x a stretch of 120 keys, that is 122 cells. A warp
// has one group and 32 of the cells, of which 30 begin a patch of its own; its neighbour's cells overlap by two. Within
// the warp, lane 4 g + t has slots 8 g .. 8 g + 7 and cells 8 t .. 8 t + 7: a square of neighbouring pairs, so that the
// sums along the diagonal need numbers of other lanes only at two sides. The tensor cores are told a permuted order of
// rows and columns that leaves the accumulators distributed like that (`number` below), and a permuted order of
// channels that lets every lane read its operands 16 bytes at a time.
//
// Channels come in chunks of 32, each a stage of shared memory; kStages - 1 chunks are under way while one is worked
// on, across the steps of a diagonal. Three blocks of 64 numbers live in registers in turn as c_t, c_{t-1} and c_{t-2}
// + c_{t-1}.
#pragma once

#include "search.cuh"
#include "warp.cuh"

namespace patchswap {
namespace mma {

constexpr int kThreads = 256;
constexpr int kWarpsAlongKeys = 4;
constexpr int kWarpKeys = 30;                          // keys of a warp
constexpr int kStretch = kWarpsAlongKeys * kWarpKeys;  // keys of an item at one step
constexpr int kStretchCells = kStretch + kHalo;        // and the cells they cover
constexpr int kTileSlots = kGroupsInTile * kSlots;
constexpr int kStages = 4;  // a power of two
constexpr int kUnitsInChunk = kChunk / kUnit;

// Places in a stage, in 16-byte words. A word is one unit of channels of one cell. One word is left out after every 8
// slots, and the pitches are 2 modulo 8: the 8 lanes that are served at a time then read from different banks.
constexpr int kGroupPitch = kSlots + kSlots / 8 + 2;  // words from one unit of a group to the next
constexpr int kGroupWords = kUnitsInChunk * kGroupPitch;
constexpr int kKeyPitch = kStretchCells;  // words from one unit of the key cells to the next
constexpr int kStageWords = kGroupsInTile * kGroupWords + kUnitsInChunk * kKeyPitch;
static_assert(kGroupPitch % 8 == 2 && kKeyPitch % 8 == 2);

// Dynamic shared memory, in bytes.
constexpr int kStagesAt = 0;                                          // Words [kStages][kStageWords]
constexpr int kThresholdAt = kStagesAt + kStages * kStageWords * 16;  // float [kTileSlots]
constexpr int kFactorAt = kThresholdAt + kTileSlots * 4;  // float [kWarpsAlongKeys][kWarp], of each warp's cells
constexpr int kPatchAt = kFactorAt + kWarpsAlongKeys * kWarp * 4;  // int [kTileSlots]
constexpr int kRowsAt = kPatchAt + kTileSlots * 4;                 // int [kTileSlots]
constexpr int kUnionAt = kRowsAt + kTileSlots * 4;                 // int [kThreads / kWarp]
constexpr int kScalarsAt = kUnionAt + kThreads / kWarp * 4;        // float [2]: relative bound, scale of the keys
constexpr int kLengthAt = kScalarsAt + 8;                          // int [1]: of lists
constexpr int kBestAt = kScalarsAt + 16;                           // float [8][kThreads]
constexpr int kFirstAt = kBestAt + 8 * kThreads * 4;  // int [kThreads], a row number that no register is left for
constexpr int kSharedBytes = kFirstAt + kThreads * 4;
static_assert(kThreads == 2 * kTileSlots && kStretchCells <= kTileSlots && kWarpsAlongKeys * kWarp == kTileSlots);

// 64 numbers of a warp's 64 x 32 block. Number (r, n) of lane 4 g + t is that of slot 8 g + r and cell 8 t + n.
struct Block {
  float tile[4][4][4];

  PATCHSWAP_DEVICE float& number(int r, int n) { return tile[r / 2][n / 2][r % 2 * 2 + n % 2]; }
};

// A thread copies one slot and one key cell, two units each of every chunk. Where they stand in the packed maps is
// counted in 16-byte words in 32 bits, which saves registers; the caller sees to it that the maps are small enough.
class Search {
 public:
  PATCHSWAP_DEVICE explicit Search(const Problem& problem)
      : p(problem),
        stages(shared_memory<Words>(kStagesAt, kStages * kStageWords)),
        scalars(shared_memory<float>(kScalarsAt, 2)),
        bests(shared_memory<float>(kBestAt, 8 * kThreads)),
        thresholds(shared_memory<float>(kThresholdAt, kTileSlots)),
        factors(shared_memory<float>(kFactorAt, kWarpsAlongKeys * kWarp)),
        first_row(shared_memory<int>(kFirstAt, kThreads)),
        patches(shared_memory<int>(kPatchAt, kTileSlots)),
        slot_rows(shared_memory<int>(kRowsAt, kTileSlots)),
        warp_rows(shared_memory<int>(kUnionAt, kThreads / kWarp)),
        list_lengths(shared_memory<int>(kLengthAt, 1)) {}

  PATCHSWAP_DEVICE void work_on(const Item& new_item) {
    item = new_item;
    const int tile_slot = thread_index() % kTileSlots;
    const Slot slot = slot_of(p, item, tile_slot / kSlots, tile_slot % kSlots);

    block_barrier();  // the item before is done with shared memory
    if (thread_index() < kTileSlots) {
      patches.store(thread_index(), item.sample * static_cast<int>(p.query.patches()) + slot.patch);
      slot_rows.store(thread_index(), static_cast<int>(slot.rows));
    }
    uint32_t rows = union_of_warp(slot.rows);
    if (thread_index() == 0) {
      scalars.store(0, relative_bound(p, item.sample));
      scalars.store(1, power_of_two(-p.key_shift[item.sample]));
      list_lengths.store(0, *p.list_users > 0 ? list_length(p) : 0);
    }
    if (lane() == 0) warp_rows.store(warp(), static_cast<int>(rows));
    block_barrier();
    for (int other = 0; other < kTileSlots / kWarp; other++) rows |= static_cast<uint32_t>(warp_rows.load(other));
    const RowRange range = row_range(p, item, rows, kStretch);
    if (range.first > range.last) return;

    const int sample_units = item.sample * static_cast<int>(p.query.units);
    query_word = sample_units * static_cast<int>(p.query.cell_pitch) + slot.cell;
    key_word = sample_units * static_cast<int>(p.key.cell_pitch);
    copied = 0;
    first_row.store(thread_index(), range.first);
    last_step = range.last + kHalo;
    copy_step = range.first;
    copy_chunk = 0;
    for (int i = 0; i < kStages - 1; i++) copy_next();

    Block x, y, z;
    clear(y);
    clear(z);
    for (int step = range.first;;) {
      do_step(step, x, y, z);
      if (++step > last_step) break;
      do_step(step, z, x, y);
      if (++step > last_step) break;
      do_step(step, y, z, x);
      if (++step > last_step) break;
    }
    copy_wait<0>();
  }

 private:
  PATCHSWAP_DEVICE int lane() const { return thread_index() % kWarp; }
  PATCHSWAP_DEVICE int warp() const { return thread_index() / kWarp; }
  PATCHSWAP_DEVICE int chunks() const { return static_cast<int>(p.query.units) / kUnitsInChunk; }

  PATCHSWAP_DEVICE static void clear(Block& block) {
#pragma unroll
    for (int i = 0; i < kSlots; i++) block.number(i / 8, i % 8) = 0.0f;
  }

  // Starts copying the next chunk of the item, if there is one; closes a group of copies in any case, so that waiting
  // for all but the newest kStages - 2 groups always means the same.
  PATCHSWAP_DEVICE void copy_next() {
    if (copy_step <= last_step) {
      const int tile_slot = thread_index() % kTileSlots, first_unit = thread_index() / kTileSlots * (kUnitsInChunk / 2);
      const int query_at =
          copied % kStages * kStageWords + tile_slot / kSlots * kGroupWords + tile_slot % kSlots * 9 / 8;
      const int key_at = copied % kStages * kStageWords + kGroupsInTile * kGroupWords + tile_slot;
      const int key_cell = item.first_cell + tile_slot + copy_step * static_cast<int>(p.key.width);
      const bool in_map = key_cell >= 0 && key_cell < static_cast<int>(p.key.cell_count());
#pragma unroll
      for (int i = 0; i < kUnitsInChunk / 2; i++) {
        const int unit = first_unit + i, plane = copy_chunk * kUnitsInChunk + unit;
        const int query_from =
            query_word + plane * static_cast<int>(p.query.cell_pitch) + copy_step * static_cast<int>(p.query.width);
        const int key_from = key_word + plane * static_cast<int>(p.key.cell_pitch) + key_cell;
        copy_async(stages, query_at + unit * kGroupPitch, p.query.cells + int64_t(query_from) * kUnit, true);
        if (tile_slot < kStretchCells) {
          copy_async(stages, key_at + unit * kKeyPitch, p.key.cells + int64_t(key_from) * kUnit, in_map);
        }
      }
    }
    copy_commit();
    copied++;
    if (++copy_chunk == chunks()) {
      copy_chunk = 0;
      copy_step++;
    }
  }

  // c (64 x 32) += the product over one chunk of channels: the oldest one, which is kStages behind the next to be
  // copied.
  PATCHSWAP_DEVICE void multiply(Block& c) {
    const int g = lane() / 4, t = lane() % 4;
    const int query_at =
        copied % kStages * kStageWords + warp() / kWarpsAlongKeys * kGroupWords + t * kGroupPitch + 9 * g;
    const int key_at = copied % kStages * kStageWords + kGroupsInTile * kGroupWords + t * kKeyPitch +
                       warp() % kWarpsAlongKeys * kWarpKeys + g / 2 * 8 + g % 2;
    Words keys[4];
#pragma unroll
    for (int j = 0; j < 4; j++) keys[j] = stages.load_words(key_at + 2 * j);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const Words even = stages.load_words(query_at + 2 * i), odd = stages.load_words(query_at + 2 * i + 1);
#pragma unroll
      for (int k = 0; k < 4; k += 2) {
        const uint32_t a[4] = {even.word[k], odd.word[k], even.word[k + 1], odd.word[k + 1]};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const uint32_t b[2] = {keys[j].word[k], keys[j].word[k + 1]};
          matrix_multiply_add(c.tile[i][j], a, b);
        }
      }
    }
  }

  // One step: c_t into c; then v = c_{t-2} + c_{t-1} + c_t takes the place of their sum, and c_{t-1} + c_t that of
  // c_{t-1}.
  PATCHSWAP_DEVICE void do_step(int step, Block& c, Block& before, Block& sum) {
    const int row = step - kHalo;  // of the queries whose patches end at this step
    clear(c);
    const bool complete = row >= first_row.load(thread_index());
    const float fetched = complete ? fetch(row) : 0.0f;
    for (int left = chunks(); left > 0; left--) {
      copy_wait<kStages - 2>();
      block_barrier();  // the chunk is there for all, and all are done with the stage that is filled next
      copy_next();
      multiply(c);
      if (left == (chunks() > 1 ? 2 : 1)) {
        (thread_index() < kTileSlots ? thresholds : factors).store(thread_index() % kTileSlots, fetched);
      }
    }
    if (chunks() == 1) block_barrier();  // with more, the barrier of the last chunk shows what was fetched
#pragma unroll
    for (int i = 0; i < kSlots; i++) {
      sum.number(i / 8, i % 8) += c.number(i / 8, i % 8);
      before.number(i / 8, i % 8) += c.number(i / 8, i % 8);
    }
    if (complete) compare(row, sum);
  }

  // Half of the threads fetch the threshold of a slot's query in this row, the others the factor of a key.
  PATCHSWAP_DEVICE float fetch(int row) const {
    if (thread_index() < kTileSlots) {
      if (!(slot_rows.load(thread_index()) >> row & 1)) return infinity();
      const int query = patches.load(thread_index()) + row * static_cast<int>(p.query.columns());
      return from_ordered(load_fresh(p.threshold + query));
    }
    const int key = thread_index() % kWarp, warp_along_keys = warp() - kTileSlots / kWarp;
    const int cell = item.first_cell + warp_along_keys * kWarpKeys + key + row * static_cast<int>(p.key.width);
    // The last two of a warp's cells begin patches that are the next warp's.
    if (key >= kWarpKeys || cell < 0 || cell >= p.key.cell_count()) return not_a_number();
    return p.key_factor[item.sample * p.key.cell_count() + cell] * scalars.load(1);
  }

  // Sums v over the columns of the patches, and compares each query's best of the lane's run of keys.
  PATCHSWAP_DEVICE void compare(int row, Block& v) {
    const int g = lane() / 4, t = lane() % 4;
    const int first_slot = warp() / kWarpsAlongKeys * kSlots + 8 * g;

    // Numbers behind the lane's square: of the lane below it, and further down of those to its right and across.
    float below[2][8], right[8][2] = {}, across[2][2] = {};
#pragma unroll
    for (int n = 1; n < 8; n++) {
      below[0][n] = shuffle_down(v.number(0, n), 4);
      below[1][n] = shuffle_down(v.number(1, n), 4);
    }
    const auto at = [&](int r, int n) {
      return r < 8 ? (n < 8 ? v.number(r, n) : right[r][n - 8]) : (n < 8 ? below[r - 8][n] : across[r - 8][n - 8]);
    };
    float best[8];
#pragma unroll
    for (int r = 0; r < 8; r++) best[r] = -infinity();
#pragma unroll
    for (int n = 0; n < kRun; n++) {
      if (n == kRun - kHalo) {
#pragma unroll
        for (int r = 1; r < 8; r++) {
          right[r][0] = shuffle_down(v.number(r, 0), 1);
          right[r][1] = shuffle_down(v.number(r, 1), 1);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) across[i / 2][i % 2] = shuffle_down(v.number(i / 2, i % 2), 5);
      }
      const float factor = factors.load(warp() % kWarpsAlongKeys * kWarp + 8 * t + n);
#pragma unroll
      for (int r = 0; r < 8; r++) {
        best[r] = larger(best[r], (at(r, n) + at(r + 1, n + 1) + at(r + 2, n + 2)) * factor);
      }
    }
    bool reached = false;
#pragma unroll
    for (int r = 0; r < 8; r++) reached |= best[r] >= thresholds.load(first_slot + r);
    if (!any_lane(reached)) return;
#pragma unroll
    for (int r = 0; r < 8; r++) bests.store(r * kThreads + thread_index(), best[r]);
    warp_barrier();
    keep_runs(row);
  }

  // Four lanes have four neighbouring runs of the same eight queries. Each takes all four runs of two of the queries.
  PATCHSWAP_DEVICE void keep_runs(int row) {
    const int first_slot = warp() / kWarpsAlongKeys * kSlots + lane() / 4 * 8;
#pragma unroll 1
    for (int r = lane() % 4; r < 8; r += 4) {
      const int first_best = r * kThreads + thread_index() / 4 * 4;
      const Words four = bests.load_words(first_best);
      const float best = larger(larger(float_of(four.word[0]), float_of(four.word[1])),
                                larger(float_of(four.word[2]), float_of(four.word[3])));
      if (!(best >= thresholds.load(first_slot + r))) continue;
      const int query = patches.load(first_slot + r) + row * static_cast<int>(p.query.columns());
      const float least = raise_threshold(p, query, best, scalars.load(0));
      int count = 0;
#pragma unroll 1
      for (int run = 0; run < 4; run++) count += bests.load(first_best + run) >= least;
      if (count == 0) continue;  // other blocks have raised the threshold since
      int place = reserve_places(p, query, count);
      int first_cell = item.first_cell + row * static_cast<int>(p.key.width) + warp() % kWarpsAlongKeys * kWarpKeys;
#pragma unroll 1
      for (int run = 0; run < 4; run++, first_cell += kRun) {
        const float score = bests.load(first_best + run);
        if (score >= least) keep_run(p, query, place++, score, first_cell, list_lengths.load(0));
      }
    }
  }

  const Problem& p;
  const Shared<Words> stages;
  const Shared<float> scalars, bests, thresholds, factors;
  const Shared<int> first_row, patches, slot_rows, warp_rows, list_lengths;
  Item item;
  int last_step;              // of the item
  int query_word, key_word;   // first unit of the slot's topmost cell; first unit of the sample's first key cell
  int copy_step, copy_chunk;  // to be copied next
  unsigned copied;            // chunks of the item asked for so far; chunk n lies in stage n modulo kStages
};

}  // namespace mma

// Dynamic shared memory: mma::kSharedBytes. Any number of blocks.
PATCHSWAP_KERNEL(mma::kThreads) match_mma(const Problem p) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  allow_next_launch();
  wait_for_launch_before();
  mma::Search search(p);
  Item item;
  for (int round = 0; find_item(p, round, mma::kStretch, item); round++) {
    search.work_on(item);
  }
#endif
}

}  // namespace patchswap
