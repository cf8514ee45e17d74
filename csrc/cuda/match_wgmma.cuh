// The search for Hopper: products of warpgroups on tiles that bulk copies bring in. See search.cuh, hopper.cuh and
// bulk_copies.cuh first.
//
// A block has three warpgroups. The first one copies. The other two multiply and compare: each has one of the tile's
// groups of 64 query slots and all 128 key cells of the stretch, of which 126 begin a patch of their own. All three go
// through the same items, steps and chunks of channels. The copying one is bulk_copies.cuh; a multiplying warp releases
// a stage once its products have been waited for.
//
// Three blocks of 64 x 128 numbers live in the registers of a warpgroup in turn as c_t, c_{t-1} and c_{t-2} + c_{t-1}.
// For the sums along the diagonal, lanes exchange numbers by shuffles; what a warp needs of the first two rows of the
// next one goes through shared memory, together with thresholds and factors. Each of these has two buffers, used in
// turn. One barrier of the warpgroup for each row of queries suffices: a warp that writes a buffer has passed the
// barrier of the other one, and so have all warps that have read what it overwrites.
#pragma once

#include "bulk_copies.cuh"
#include "hopper.cuh"
#include "search.cuh"
#include "warp.cuh"

namespace patchswap {
namespace wgmma {

using copies::kCells, copies::kStretch, copies::kStages, copies::kUnitsInChunk;
using copies::kGroupWords, copies::kKeysInStage, copies::kStageWords;
using copies::stages, copies::barriers, copies::stage_of, copies::round_of, copies::full, copies::empty;

constexpr int kThreads = (1 + kGroupsInTile) * kWarpgroup;
constexpr int kWarps = kGroupsInTile * kWarpgroup / kWarp;  // that multiply
constexpr int kWarpSlots = kSlots * kGroupsInTile / kWarps;
static_assert(kSlots == 64 && kWarpSlots == 16 && kUnitsInChunk % 2 == 0);

// Registers per thread: 64512 in all, which is what the block begins with.
constexpr int kCopyRegisters = 40, kMultiplyRegisters = 232;

struct alignas(8) Pair {
  float number[2];
};
constexpr int kPairs = kCells / 2;           // in a row of numbers
constexpr int kEdgePairs = kHalo * kPairs;   // that a warp hands to the one before it
constexpr int kKeyRuns = kCells / kRun;      // 8 columns each, as many as four neighbouring lanes hold of a row
constexpr int kBests = kWarpSlots * kPairs;  // of one warp

// What a warp saves of its item in shared memory, as registers are short: one int each. The inverse of the key map's
// scale and the relative bound of search.cuh are saved as bits; the length is that of lists.
constexpr int kSavedRound = 0, kSavedSample = 1, kSavedFirstCell = 2, kSavedFirstRow = 3, kSavedScale = 4,
              kSavedBound = 5, kSavedLength = 6, kSavedInts = 8;

// Dynamic shared memory, in bytes, behind that of the copies.
constexpr int kBestAt = copies::kBytes;                                   // float [kWarps][kBests]
constexpr int kEdgesAt = kBestAt + kWarps * kBests * 4;                   // Pair [2][kWarps][kEdgePairs]
constexpr int kFactorAt = kEdgesAt + 2 * kWarps * kEdgePairs * 8;         // Pair [2][kGroupsInTile][kPairs]
constexpr int kThresholdAt = kFactorAt + 2 * kGroupsInTile * kCells * 4;  // float [2][kGroupsInTile][kSlots]
constexpr int kQueryAt = kThresholdAt + 2 * kGroupsInTile * kSlots * 4;   // int [2][kGroupsInTile][kSlots]
constexpr int kPatchAt = kQueryAt + 2 * kGroupsInTile * kSlots * 4;       // int [kGroupsInTile * kSlots]
constexpr int kRowsAt = kPatchAt + kGroupsInTile * kSlots * 4;            // int [kGroupsInTile * kSlots]
constexpr int kSavedAt = kRowsAt + kGroupsInTile * kSlots * 4;            // int [kWarps][kSavedInts]
constexpr int kSharedBytes = kSavedAt + kWarps * kSavedInts * 4;
static_assert(kSharedBytes <= 227 * 1024 && 2 * kKeyRuns == 32);

// A thread's 64 numbers of its warpgroup's 64 x 128 block. Lane 4 g + t of warp w has slots 16 w + g and, half 1,
// 16 w + g + 8, and cells 8 j + 2 t + e of both.
struct Block {
  float numbers[kSlots];

  PATCHSWAP_DEVICE float number(int half, int j, int e) const { return numbers[4 * j + 2 * half + e]; }
};

class Search {
 public:
  PATCHSWAP_DEVICE explicit Search(const Problem& problem)
      : p(problem),
        group(shuffle(thread_index() / kWarpgroup, 0) - 1),
        thresholds(shared_memory<float>(kThresholdAt, 2 * kGroupsInTile * kSlots)),
        bests(shared_memory<float>(kBestAt, kWarps * kBests)),
        factors(shared_memory<Pair>(kFactorAt, 2 * kGroupsInTile * kPairs)),
        edges(shared_memory<Pair>(kEdgesAt, 2 * kWarps * kEdgePairs)),
        queries(shared_memory<int>(kQueryAt, 2 * kGroupsInTile * kSlots)),
        patches(shared_memory<int>(kPatchAt, kGroupsInTile * kSlots)),
        slot_rows(shared_memory<int>(kRowsAt, kGroupsInTile * kSlots)),
        saved(shared_memory<int>(kSavedAt, kWarps * kSavedInts)) {}

  PATCHSWAP_DEVICE void work() {
    Item item;
    for (int round = 0; find_item(p, round, kStretch, item); round = saved_int(kSavedRound) + 1) {
      work_on(round, item);
    }
  }

 private:
  PATCHSWAP_DEVICE void work_on(int round, const Item& item) {
    uint32_t rows = 0;
    for (int slot = lane(); slot < kGroupsInTile * kSlots; slot += kWarp) {
      rows |= slot_of(p, item, slot / kSlots, slot % kSlots).rows;
    }
    const RowRange range = row_range(p, item, union_of_warp(rows), kStretch);
    warp_barrier();  // what was saved of the item before has been read
    if (lane() == 0) {
      saved.store(warp() * kSavedInts + kSavedRound, round);
      saved.store(warp() * kSavedInts + kSavedSample, item.sample);
      saved.store(warp() * kSavedInts + kSavedFirstCell, item.first_cell);
      saved.store(warp() * kSavedInts + kSavedFirstRow, range.first);
      const float scale = power_of_two(-p.key_shift[item.sample]);
      saved.store(warp() * kSavedInts + kSavedScale, static_cast<int>(bits_of(scale)));
      saved.store(warp() * kSavedInts + kSavedBound, static_cast<int>(bits_of(relative_bound(p, item.sample))));
      saved.store(warp() * kSavedInts + kSavedLength, *p.list_users > 0 ? list_length(p) : 0);
    }
    warp_barrier();
    if (range.first > range.last) return;
    if (thread_index() % kWarpgroup < kSlots) {
      const Slot slot = slot_of(p, item, group, thread_index() % kSlots);
      patches.store(own_slot(), item.sample * static_cast<int>(p.query.patches()) + slot.patch);
      slot_rows.store(own_slot(), static_cast<int>(slot.rows));
    }

    Block x, y, z;
#pragma unroll
    for (int i = 0; i < kSlots; i++) y.numbers[i] = z.numbers[i] = 0.0f;
    for (int step = range.first, last_step = range.last + kHalo;;) {
      do_step(step, x, y, z);
      if (++step > last_step) break;
      do_step(step, z, x, y);
      if (++step > last_step) break;
      do_step(step, y, z, x);
      if (++step > last_step) break;
    }
  }

  PATCHSWAP_DEVICE int lane() const { return thread_index() % kWarp; }
  PATCHSWAP_DEVICE int warp() const { return thread_index() / kWarp - kWarpgroup / kWarp; }  // of those that multiply
  PATCHSWAP_DEVICE int warp_in_group() const { return thread_index() % kWarpgroup / kWarp; }

  PATCHSWAP_DEVICE int saved_int(int which) const { return saved.load(warp() * kSavedInts + which); }
  PATCHSWAP_DEVICE float saved_float(int which) const { return float_of(static_cast<uint32_t>(saved_int(which))); }
  // Of the thread, among patches and slot_rows, which only the thread itself uses.
  PATCHSWAP_DEVICE int own_slot() const { return group * kSlots + thread_index() % kSlots; }

  // One step: c_t into c; then v = c_{t-2} + c_{t-1} + c_t takes the place of their sum, and c_{t-1} + c_t that of
  // c_{t-1}.
  PATCHSWAP_DEVICE void do_step(int step, Block& c, Block& before, Block& sum) {
    const int row = step - kHalo;  // of the queries whose patches end at this step
    const bool complete = row >= saved_int(kSavedFirstRow);
    Fetched fetched{0.0f, 0};
    if (complete) fetched = fetch(row);
    multiply(c);
#pragma unroll
    for (int i = 0; i < kSlots; i++) {
      sum.numbers[i] += c.numbers[i];
      before.numbers[i] += c.numbers[i];
    }
    if (!complete) return;
    buffer ^= 1;
    publish(fetched, row, sum);
    compare(row, sum);
  }

  // The product over all channels. One chunk's products are under way while the next one is waited for.
  PATCHSWAP_DEVICE void multiply(Block& c) {
    const uint64_t slots = matrix_descriptor(stages().address(group * kGroupWords), kSlots * 16, 8 * 16);
    const uint64_t cells = matrix_descriptor(stages().address(kKeysInStage), kCells * 16, 8 * 16);
    const int chunks = static_cast<int>(p.query.units) / kUnitsInChunk;
    const bool releases = lane() == 0;
    if (chunks == kStages) {
      // 256 channels, those of VGG's relu3_1: chunk i is in stage i at every step, so that all places are constants.
      const int parity = round_of(n) % 2;
#pragma unroll
      for (int chunk = 0; chunk < kStages; chunk++) {
        multiply_chunk(c, slots, cells, chunk, parity, chunk == 0);
        if (chunk > 0) release(chunk - 1, releases);
      }
      n += kStages;
    } else {
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; chunk++, n++) {
        multiply_chunk(c, slots, cells, stage_of(n), round_of(n) % 2, chunk == 0);
        if (chunk > 0) release(stage_of(n - 1), releases);
      }
    }
    wait_for_products(c.numbers);
    release(stage_of(n - 1), releases);
  }

  // Waits for a stage, starts its products, and waits for those of the chunk before.
  PATCHSWAP_DEVICE static void multiply_chunk(Block& c, uint64_t slots, uint64_t cells, int stage, int parity,
                                              bool is_first) {
    wait_at_copy_barrier(barriers(), full(stage), parity);
    fence_products();
#pragma unroll
    for (int unit = 0; unit < kUnitsInChunk; unit += 2) {
      const uint32_t place = static_cast<uint32_t>(stage * kStageWords * 16);
      multiply_add_async(c.numbers, moved(slots, place + unit * kSlots * 16), moved(cells, place + unit * kCells * 16),
                         !is_first || unit > 0);
    }
    commit_products();
    wait_for_products<1>();
  }

  // The warp's products have read a stage.
  PATCHSWAP_DEVICE static void release(int stage, bool releases) {
    if (releases) arrive_at_copy_barrier(barriers(), empty(stage));
  }

  // What a thread brings for the comparison of one row: the factor of a key, not scaled yet, and the threshold of a
  // slot's query in its order of bits. Both as they lie in memory: a conversion would wait for the loads before the
  // products.
  struct Fetched {
    float factor;
    int threshold;
  };

  PATCHSWAP_DEVICE Fetched fetch(int row) const {
    Fetched result{not_a_number(), ordered(infinity())};
    const int key = thread_index() % kWarpgroup, sample = saved_int(kSavedSample);
    const int cell = saved_int(kSavedFirstCell) + key + row * static_cast<int>(p.key.width);
    // The last cells of the stretch begin patches that are the next item's.
    if (key < kStretch && cell >= 0 && cell < p.key.cell_count()) {
      result.factor = p.key_factor[sample * p.key.cell_count() + cell];
    }
    if (key < kSlots && (slot_rows.load(own_slot()) >> row & 1)) {
      result.threshold = load_fresh(p.threshold + own_query(row));
    }
    return result;
  }
  PATCHSWAP_DEVICE int own_query(int row) const {
    return patches.load(own_slot()) + row * static_cast<int>(p.query.columns());
  }

  PATCHSWAP_DEVICE int slots_at() const { return (buffer * kGroupsInTile + group) * kSlots; }

  // Puts into shared memory what other threads of the warpgroup read.
  PATCHSWAP_DEVICE void publish(const Fetched& fetched, int row, const Block& v) const {
    const int key = thread_index() % kWarpgroup;
    shared_memory<float>(kFactorAt, 2 * kGroupsInTile * kCells)
        .store((buffer * kGroupsInTile + group) * kCells + key, fetched.factor * saved_float(kSavedScale));
    if (key < kSlots) {
      thresholds.store(slots_at() + key, from_ordered(fetched.threshold));
      queries.store(slots_at() + key, own_query(row));
    }
    if (lane() < 4 * kHalo) {  // the lanes that have the first rows
#pragma unroll
      for (int j = 0; j < kKeyRuns; j++) {
        edges.store((buffer * kWarps + warp()) * kEdgePairs + j * 4 * kHalo + lane(),
                    Pair{{v.number(0, j, 0), v.number(0, j, 1)}});
      }
    }
    named_barrier(1 + group, kWarpgroup);
  }

  // Sums v over the columns of the patches, and keeps the runs of keys that may hold a query's best.
  PATCHSWAP_DEVICE void compare(int row, const Block& v) const {
    float best[2] = {-infinity(), -infinity()};
    score(v, best);
    const int first_slot = slots_at() + warp_in_group() * kWarpSlots;
    // At most steps no query's best reaches its threshold.
    const bool reached_0 = best[0] >= thresholds.load(first_slot + lane() / 4);
    const bool reached_1 = best[1] >= thresholds.load(first_slot + 8 + lane() / 4);
    if (any_lane(reached_0 || reached_1)) keep_runs(row, first_slot, best[0], best[1]);
  }

  // The scores of the lane's queries, one in each half, with its 32 keys: the best of each query into `best`, and the
  // better one of each pair of keys to `bests`.
  //
  // A score needs the numbers one row down and one cell on, and two rows down and two cells on. They are with other
  // lanes; where the row is beyond the half, in their other half or in the next warp; where the cell is beyond a run's
  // eight, in their next run. As a lane's number goes to one lane only, it is the sender that knows what to send.
  PATCHSWAP_DEVICE void score(const Block& v, float (&best)[2]) const {
    const int g = lane() / 4, t = lane() % 4, next_t = (t + 1) % 4;
    const int one_down = (g + 1) % 8 * 4 + t, one_across = (g + 1) % 8 * 4 + next_t;
    const int two_across = (g + 2) % 8 * 4 + next_t;
    const bool is_first_row = g < 1, is_first_two_rows = g < 2, is_first_pair = t == 0;
    // The last warp has none after it: slots that would need one have no queries.
    const int next_warp = warp() - warp_in_group() + (warp_in_group() + 1) % (kWarpgroup / kWarp);
    const int edge = (buffer * kWarps + next_warp) * kEdgePairs + lane() % (4 * kHalo);
    const int pairs = (buffer * kGroupsInTile + group) * kPairs + t;
    const int own_bests = warp() * kBests + place_of_pair(0, 0, lane());

    Words four[2];
    Pair edge_here = edges.load(edge);
#pragma unroll
    for (int j = 0; j < kKeyRuns; j++) {
      // Beyond the last run there is none: keys that would need it do not count.
      const int next_j = j + 1 < kKeyRuns ? j + 1 : j;
      const Pair edge_next = edges.load(edge + next_j * 4 * kHalo);
      const Pair factor = factors.load(pairs + j * 4);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const auto beyond = [&](int e) { return h == 0 ? v.number(1, j, e) : edge_here.number[e]; };
        const auto beyond_next = [&](int e) { return h == 0 ? v.number(1, next_j, e) : edge_next.number[e]; };
        const auto sent = [&](bool is_beyond, int e) { return is_beyond ? beyond(e) : v.number(h, j, e); };
        const auto sent_across = [&](bool is_beyond, int e) {
          const float next = is_beyond ? beyond_next(e) : v.number(h, next_j, e);
          return is_first_pair ? next : sent(is_beyond, e);
        };
        const float down_1 = shuffle(sent(is_first_row, 1), one_down);
        const float across_0 = shuffle(sent_across(is_first_row, 0), one_across);
        const float far_0 = shuffle(sent_across(is_first_two_rows, 0), two_across);
        const float far_1 = shuffle(sent_across(is_first_two_rows, 1), two_across);
        const float better = larger((v.number(h, j, 0) + down_1 + far_0) * factor.number[0],
                                    (v.number(h, j, 1) + across_0 + far_1) * factor.number[1]);
        best[h] = larger(best[h], better);
        four[h].word[j % 4] = bits_of(better);
        if (j % 4 == 3) bests.store_words(own_bests + place_of_pair(h, j - 3, 0), four[h]);
      }
      edge_here = edge_next;
    }
  }

  // Where a warp's bests have the pair of half h, run j and a lane: [h][j / 4][lane][j % 4].
  PATCHSWAP_DEVICE static constexpr int place_of_pair(int h, int j, int lane) {
    return ((h * kKeyRuns + j) / 4 * kWarp + lane) * 4 + j % 4;
  }

  // The best score of a run, of which four lanes from `lane` on have a pair each.
  PATCHSWAP_DEVICE float best_of_run(int h, int j, int lane) const {
    float best = -infinity();
    for (int i = 0; i < 4; i++) best = larger(best, bests.load(warp() * kBests + place_of_pair(h, j, lane + i)));
    return best;
  }

  // Four lanes have all 16 runs of two queries. The first of them raises the threshold of the query of half 0 and
  // reserves its places, the second does so for half 1.
  PATCHSWAP_DEVICE void keep_runs(int row, int first_slot, float best_0, float best_1) const {
    const int t = lane() % 4, first_lane = lane() - t;
#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2) {
      best_0 = larger(best_0, shuffle_xor(best_0, mask));
      best_1 = larger(best_1, shuffle_xor(best_1, mask));
    }
    const int slot = first_slot + t % 2 * 8 + lane() / 4;
    const float best = t == 0 ? best_0 : best_1;
    float least = not_a_number();  // which no score reaches
    if (t < 2 && best >= thresholds.load(slot)) {
      least = raise_threshold(p, queries.load(slot), best, saved_float(kSavedBound));
    }
    if (!any_lane(best >= least)) return;  // other blocks have raised the thresholds since
    const float least_0 = shuffle(least, first_lane), least_1 = shuffle(least, first_lane + 1);
    warp_barrier();  // the bests are there

    // Every fourth run is a lane's. A bit tells of each run that is kept, 16 half + run.
    uint32_t hits = 0;
#pragma unroll 1
    for (int bit = t; bit < 2 * kKeyRuns; bit += 4) {
      const int h = bit / kKeyRuns;
      if (best_of_run(h, bit % kKeyRuns, first_lane) >= (h == 0 ? least_0 : least_1)) hits |= 1u << bit;
    }
    uint32_t all_hits = hits | static_cast<uint32_t>(shuffle_xor(static_cast<int>(hits), 1));
    all_hits |= static_cast<uint32_t>(shuffle_xor(static_cast<int>(all_hits), 2));
    const uint32_t own_hits = all_hits >> t % 2 * kKeyRuns & ((1u << kKeyRuns) - 1);
    int place = 0;
    if (t < 2 && own_hits != 0) place = reserve_places(p, queries.load(slot), count_bits(own_hits));
    const int place_0 = shuffle(place, first_lane), place_1 = shuffle(place, first_lane + 1);
#pragma unroll 1
    for (uint32_t left = hits; left != 0; left &= left - 1) {
      const int bit = lowest_bit(left), h = bit / kKeyRuns, j = bit % kKeyRuns;
      const int before = count_bits(all_hits & ((1u << bit) - (1u << h * kKeyRuns)));
      const int first_cell = saved_int(kSavedFirstCell) + row * static_cast<int>(p.key.width) + j * kRun;
      keep_run(p, queries.load(first_slot + h * 8 + lane() / 4), (h == 0 ? place_0 : place_1) + before,
               best_of_run(h, j, first_lane), first_cell, saved_int(kSavedLength));
    }
  }

  const Problem& p;
  const int group;  // of the tile
  const Shared<float> thresholds, bests;
  const Shared<Pair> factors, edges;
  const Shared<int> queries, patches, slot_rows, saved;
  int buffer = 0;  // which of the two is in use
  unsigned n = 0;  // chunk to be multiplied next
};

}  // namespace wgmma

// Dynamic shared memory: wgmma::kSharedBytes. Any number of blocks. Empty in code for anything but sm_90a.
PATCHSWAP_KERNEL(wgmma::kThreads) match_wgmma(const Problem p) {
#if defined(PATCHSWAP_HOPPER)
  allow_next_launch();
  copies::start_stages(wgmma::kThreads, wgmma::kWarps);
  wait_for_launch_before();
  if (thread_index() < kWarpgroup) {
    give_up_registers<wgmma::kCopyRegisters>();
    copies::copy_all(p);
  } else {
    take_registers<wgmma::kMultiplyRegisters>();
    wgmma::Search(p).work();
  }
#endif
}

}  // namespace patchswap
