// The first launch of the tensor-core match: everything that its search wants to know of the maps.
//
//   packing   both maps in half precision, scaled and in the order of the tensor cores, and in float32, channels last
//   norms     of cells and patches, with what rounding to half took from them
//   plan      which query cells are worked on; see plan.cuh
//
// Blocks of kPrepareThreads threads have two roles. The first B blocks plan, one sample each. Every other block owns
// kPartCells cells of one row of one map of one sample (of the query only, where query and key are one tensor) and
// packs them. A row of patches needs three rows of cells: the block that finishes the last part of the three computes
// it, as counters tell. No block waits for another.
//
// Packing goes in tiles of kWarp cells: a lane has a cell, a warp every eighth unit of channels. Maps are read where
// they lie, channels first or channels last. Sums over channels are made in the same order for every cell, and those
// over the cells of a patch for every patch, so equal patches have equal norms wherever they lie, bit for bit.
#pragma once

#include <cstdint>

#include "device.cuh"
#include "limits.cuh"
#include "numbers.cuh"
#include "plan.cuh"
#include "problem.cuh"
#include "search.cuh"
#include "warp.cuh"

namespace patchswap {

constexpr int kPrepareThreads = 256;
constexpr int kPrepareWarps = kPrepareThreads / kWarp;
constexpr int kPrepareBound = 2 * kPrepareThreads;  // for the compiler: no more registers than let two blocks reside
static_assert(kPrepareThreads == kPlanThreads);

constexpr int kPieceBytes = 16;
constexpr int kPartCells = 2 * kWarp;  // of a row, for one block: enough blocks to fill the device, none too short

// The scale is chosen by probing the map: kProbes times kProbeNumbers neighbouring numbers. Every block does so anew,
// so they are few next to the block's own kPartCells cells.
constexpr int kProbeNumbers = 8;
constexpr int kProbes = 64;
constexpr int kScaledExponent = 8;  // the largest number seen comes to lie in [2^8, 2^9); half ends near 2^16
constexpr int kMostShift = 100;     // no map whose patches have a norm in float32's range needs more

constexpr float kLargestHalf = 65504.0f;

// Dynamic shared memory of a packing block, in bytes; a planning block has its own use for it.
constexpr int kSumsCount = 2 * 2 * kPrepareWarps * kWarp;  // two tiles, two sums, per warp and lane
constexpr int kLargestAt = kSumsCount * 4;                 // one int per warp
constexpr int kFinishedAt = kLargestAt + kPrepareWarps * 4;
constexpr int kPackShared = kFinishedAt + kPatch * 4;
constexpr int kPrepareShared = kPackShared > kPlanShared * 4 ? kPackShared : kPlanShared * 4;

// bfloat16 as it lies in memory: the upper half of a float. float16 is Half.
struct BFloat16 {
  uint16_t bits;
};
PATCHSWAP_DEVICE float to_float(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }
PATCHSWAP_DEVICE float to_float(float value) { return value; }

template <class Element>
struct Preparation {
  Problem problem;
  const Element* query;  // [B][C][query height][query width]
  const Element* key;    // [B][C][key height][key width]; not read where one_map
  // [B][height][width][C] instead, each cell in whole pieces of kPieceBytes.
  bool query_is_channels_last, key_is_channels_last;
  bool query_is_shared, key_is_shared;  // one map, without the batch, is that of all samples
  bool one_map;                         // query and key are one tensor, packed once
  int* query_arrivals;  // [B][query rows] parts finished of the three rows below a row of patches; starts at 0
  int* key_arrivals;    // [B][key rows] likewise; null where one_map
  uint32_t* workspace;  // of plan_queries, plan_workspace(...) words
  PlanCost cost;
};

PATCHSWAP_HOST_DEVICE int64_t parts_of_row(const PackedMap& map) { return (map.width + kPartCells - 1) / kPartCells; }
PATCHSWAP_HOST_DEVICE int64_t parts_of_map(const PackedMap& map) { return map.height * parts_of_row(map); }

inline int64_t prepare_blocks(const Problem& p, bool one_map) {
  return p.batch * (1 + parts_of_map(p.query) + (one_map ? 0 : parts_of_map(p.key)));
}

struct alignas(16) HalfUnit {
  Half channel[kUnit];
};

// The exponent by which a map of one sample is scaled, the same in all blocks that ask. `count` numbers; `scratch` one
// int per warp. Choosing it badly costs precision and thereby time, never correctness.
template <class Element>
PATCHSWAP_DEVICE int scale_exponent(const Element* features, int64_t count, Shared<int> scratch) {
  const int thread = thread_index();
  const int64_t stretch = count / kProbes;
  // A probe lies somewhere in its stretch, so that no period of the map, a row or a plane, decides what is seen.
  const uint64_t room = stretch > kProbeNumbers ? static_cast<uint64_t>(stretch - kProbeNumbers) + 1 : 1;
  int largest = 0;  // as bits, which for positive floats have their order
#pragma unroll
  for (int probe = thread / kProbeNumbers; probe < kProbes; probe += kPrepareThreads / kProbeNumbers) {
    const uint32_t golden_ratio = 0x9e3779b9u;  // times 2^32: spreads evenly whatever the number of probes
    const int64_t begin = probe * (stretch > kProbeNumbers ? stretch : kProbeNumbers);
    const int64_t place = begin + static_cast<int64_t>((static_cast<uint32_t>(probe) * golden_ratio) * room >> 32) +
                          thread % kProbeNumbers;
    const uint32_t bits = place < count ? bits_of(to_float(features[place])) & ~(1u << 31) : 0;
    if (bits < bits_of(infinity()) && static_cast<int>(bits) > largest) largest = static_cast<int>(bits);
  }
  largest = largest_of_warp(largest);
  if (thread % kWarp == 0) scratch.store(thread / kWarp, largest);
  block_barrier();
  for (int i = 0; i < kPrepareWarps; i++) {
    const int other = scratch.load(i);
    largest = other > largest ? other : largest;
  }
  if (largest == 0) return 0;
  const int shift = kScaledExponent - ((largest >> 23) - 127);
  return shift < -kMostShift ? -kMostShift : shift > kMostShift ? kMostShift : shift;
}

// One unit of channels of a cell of one sample; 0 beyond the last channel, and where the cell is not there. A lane
// reads channels that lie side by side a piece at a time, as its neighbours read from other sectors of memory.
template <bool kIsChannelsLast, class Element>
PATCHSWAP_DEVICE void read_unit(const Element* features, int64_t channels, int64_t cells, int64_t cell, bool is_there,
                                int unit, float (&given)[kUnit]) {
  const int64_t first = static_cast<int64_t>(unit) * kUnit;
  if constexpr (kIsChannelsLast) {
    constexpr int kPieceLength = kPieceBytes / static_cast<int>(sizeof(Element));
    struct alignas(kPieceBytes) Piece {
      Element number[kPieceLength];
    };
#pragma unroll
    for (int i = 0; i < kUnit; i += kPieceLength) {
      Piece piece = {};
      if (is_there && first + i < channels) {
        piece = *reinterpret_cast<const Piece*>(features + cell * channels + first + i);
      }
#pragma unroll
      for (int j = 0; j < kPieceLength; j++) given[i + j] = to_float(piece.number[j]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kUnit; i++) {
      const int64_t channel = first + i;
      given[i] = is_there && channel < channels ? to_float(features[channel * cells + cell]) : 0.0f;
    }
  }
}

// Part `part` of one row of cells, `row`, of the map of `sample`; features are those of the sample.
template <bool kIsChannelsLast, class Element>
PATCHSWAP_DEVICE void pack_part(const PackedMap& map, const Element* features, int64_t channels, int sample, int row,
                                int part, float scale, Shared<float> sums) {
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  const int64_t width = map.width, plane = map.cell_count(), first_cell = row * width;
  const int units = static_cast<int>(map.units);
  HalfUnit* cells = reinterpret_cast<HalfUnit*>(map.cells) + sample * map.units * map.cell_pitch;
  Numbers<float>* exact = reinterpret_cast<Numbers<float>*>(map.exact + sample * plane * map.units * kUnit);

  for (int tile = 0; tile < kPartCells / kWarp; tile++) {
    const int64_t column = part * kPartCells + tile * kWarp + lane, cell = first_cell + column;
    const bool in_row = column < width;
    float square = 0.0f, error = 0.0f;
#pragma unroll 2
    for (int unit = warp; unit < units; unit += kPrepareWarps) {
      HalfUnit packed;
      float given[kUnit];
      read_unit<kIsChannelsLast>(features, channels, plane, cell, in_row, unit, given);
#pragma unroll
      for (int i = 0; i < kUnit; i++) {
        const float scaled = given[i] * scale;
        // NaN passes both comparisons.
        const float within = scaled > kLargestHalf ? kLargestHalf : scaled < -kLargestHalf ? -kLargestHalf : scaled;
        packed.channel[i] = to_half(within);
        const float lost = scaled - to_float(packed.channel[i]);
        square = fused_multiply_add(given[i], given[i], square);
        error = fused_multiply_add(lost, lost, error);
      }
      if (in_row) {
        cells[unit * map.cell_pitch + cell] = packed;
        Numbers<float>* target = exact + (cell * map.units + unit) * (kUnit / Numbers<float>::kCount);
        target[0] = Numbers<float>{{given[0], given[1], given[2], given[3]}};
        target[1] = Numbers<float>{{given[4], given[5], given[6], given[7]}};
      }
    }
    // Two buffers in turn. A warp that overwrites one has passed the barrier of the other, and so have its readers.
    const int half = tile % 2 * 2 * kPrepareWarps * kWarp, errors = kPrepareWarps * kWarp;
    sums.store(half + thread, square);
    sums.store(half + errors + thread, error);
    block_barrier();
    if (warp == tile % kPrepareWarps && in_row) {
      square = error = 0.0f;
      for (int i = 0; i < kPrepareWarps; i++) {
        square += sums.load(half + i * kWarp + lane);
        error += sums.load(half + errors + i * kWarp + lane);
      }
      map.square[sample * plane + cell] = square;
      map.error[sample * plane + cell] = error;
    }
  }

  if (row == map.height - 1 && part == 0) {
    const int behind = static_cast<int>(map.cell_pitch - plane);
    for (int i = thread; i < units * behind; i += kPrepareThreads) {
      HalfUnit zero;
      for (int j = 0; j < kUnit; j++) zero.channel[j] = to_half(0.0f);
      cells[i / behind * map.cell_pitch + plane + i % behind] = zero;
    }
  }
}

// What is known of one patch.
struct PatchNorm {
  float norm;    // as given; 0 for a zero patch, NaN where not finite
  float scaled;  // in the map's units
  float error;   // at least the norm of the rounding error, in the map's units
};

// The patch whose top-left cell is `cell`, counted from the sample's first. Other blocks of this launch wrote the sums.
// up: a factor a little above 1, more than what rounding can take from sums.
PATCHSWAP_DEVICE PatchNorm patch_norm(const PackedMap& map, int sample, int64_t cell, float scale, float up) {
  const int64_t first = sample * map.cell_count() + cell;
  float square = 0.0f, error = 0.0f;
  for (int tap = 0; tap < kTaps; tap++) {
    const int64_t place = first + tap / kPatch * map.width + tap % kPatch;
    square += load_fresh(map.square + place);
    error += load_fresh(map.error + place);
  }
  if (!(square <= Limits<float>::kLargest)) return {not_a_number(), 0.0f, 0.0f};
  if (square < Limits<float>::kSmallestNormal) return {0.0f, 0.0f, 0.0f};
  const float norm = square_root(square), scaled = norm * scale;
  // Squares of the errors of very small numbers may have vanished. Rounding takes at most the number itself there.
  const float smallest = power_of_two(-20);
  return {norm, scaled, (scaled < smallest ? scaled : square_root(error)) * up};
}

PATCHSWAP_DEVICE void finish_query_row(const Problem& p, int sample, int row, float scale, float up) {
  const int columns = static_cast<int>(p.query.columns()), lane = thread_index() % kWarp;
  for (int first = thread_index() - lane; first < columns; first += kPrepareThreads) {
    const int column = first + lane;
    const int64_t query = sample * p.query.patches() + static_cast<int64_t>(row) * columns + column;
    bool is_searched_for = false;
    if (column < columns) {
      const bool takes_part = p.query_mask == nullptr || p.query_mask[query];
      const PatchNorm patch = patch_norm(p.query, sample, row * p.query.width + column, scale, up);
      is_searched_for = takes_part && patch.norm >= 0.0f;  // not NaN
      if (!is_searched_for) {
        p.index[query] = -1;
        p.score[query] = takes_part ? patch.norm : -infinity();
        if (p.ranking != nullptr) p.ranking[query] = -infinity();
      }
      p.query_norm[query] = patch.norm;
      p.query_scaled[query] = patch.scaled;
      p.query_margin[query] = patch.error;
      // Nothing is ever offered to a query that is not searched for, or to a zero patch.
      p.threshold[query] = ordered(is_searched_for && patch.norm > 0.0f ? -Limits<float>::kLargest : infinity());
      p.list_count[query] = 0;
      if (p.best != nullptr) p.best[query] = 0;
    }
    const uint32_t searched_for = ballot(is_searched_for);
    int place = 0;
    if (lane == 0 && searched_for != 0) place = atomic_add(p.list_users, count_bits(searched_for));
    place = shuffle(place, 0) + count_bits(searched_for & ((1u << lane) - 1));
    if (is_searched_for) {
      p.list_place[query] = place;
      p.list_user[place] = static_cast<int>(query);
    }
  }
}

PATCHSWAP_DEVICE void finish_key_row(const Problem& p, int sample, int row, float scale, float up) {
  const int columns = static_cast<int>(p.key.columns()), width = static_cast<int>(p.key.width);
  float* factor = p.key_factor + (sample * p.key.height + row) * p.key.width;
  int worst = 0, keys_from_first = 0;
  for (int column = thread_index(); column < width; column += kPrepareThreads) {
    float key_factor = not_a_number();
    const int key = row * columns + column;
    if (column < columns && (p.key_mask == nullptr || p.key_mask[sample * p.key.patches() + key])) {
      const PatchNorm patch = patch_norm(p.key, sample, row * p.key.width + column, scale, up);
      if (patch.norm >= 0.0f) {  // not NaN
        key_factor = patch.norm > 0.0f ? 1.0f / patch.norm : 0.0f;
        keys_from_first = kMostKeys - key > keys_from_first ? kMostKeys - key : keys_from_first;
      }
      if (patch.norm > 0.0f) {
        // Infinity, which makes every query be searched in full, where the scaled norm or its inverse leaves float32.
        const float error = patch.error / patch.scaled * up;
        const bool is_usable = patch.scaled >= Limits<float>::kSmallestNormal && error <= Limits<float>::kLargest;
        const int bits = static_cast<int>(bits_of(is_usable ? error : infinity()));
        worst = bits > worst ? bits : worst;
      }
    }
    factor[column] = key_factor;
  }
  worst = largest_of_warp(worst);
  keys_from_first = largest_of_warp(keys_from_first);
  if (thread_index() % kWarp == 0) {
    if (worst > 0) atomic_max(p.worst_error + sample, worst);
    if (keys_from_first > 0) atomic_max(p.keys_from_first + sample, keys_from_first);
  }
}

// No patch begins in the last rows of cells.
PATCHSWAP_DEVICE void close_key_row(const Problem& p, int sample, int row) {
  float* factor = p.key_factor + (sample * p.key.height + row) * p.key.width;
  for (int column = thread_index(); column < static_cast<int>(p.key.width); column += kPrepareThreads) {
    factor[column] = not_a_number();
  }
}

// All that one packing block does: one part of a map that serves as query, key or both, numbered part by part of a row,
// row by row of a sample. arrivals: [B][rows] of this map. is_shared: its features are the same for all samples.
template <class Element>
PATCHSWAP_DEVICE void prepare_part(const Problem& p, const PackedMap& map, const Element* map_features,
                                   bool is_channels_last, bool is_shared, int* arrivals, int64_t block, bool is_query,
                                   bool is_key) {
  const int thread = thread_index();
  const int sample = static_cast<int>(block / parts_of_map(map)), parts = static_cast<int>(parts_of_row(map));
  const int in_sample = static_cast<int>(block % parts_of_map(map)), row = in_sample / parts, part = in_sample % parts;
  const int rows = static_cast<int>(map.rows());
  const Shared<int> finished = shared_memory<int>(kFinishedAt, kPatch);
  const int64_t count = p.channels * map.cell_count();
  const Element* features = map_features + (is_shared ? 0 : sample * count);

  const int shift = scale_exponent(features, count, shared_memory<int>(kLargestAt, kPrepareWarps));
  const float scale = power_of_two(shift);
  const Shared<float> sums = shared_memory<float>(0, kSumsCount);
  if (is_channels_last) {
    pack_part<true>(map, features, p.channels, sample, row, part, scale, sums);
  } else {
    pack_part<false>(map, features, p.channels, sample, row, part, scale, sums);
  }
  if (is_key && row >= rows && part == 0) close_key_row(p, sample, row);
  if (is_key && in_sample == 0 && thread == 0) p.key_shift[sample] = shift;

  block_barrier();
  if (thread == 0) {
    device_fence();  // the whole block's writes, as the barrier orders them before this
    for (int i = 0; i < kPatch; i++) {
      const int patch_row = row - i;
      const bool exists = patch_row >= 0 && patch_row < rows;
      finished.store(i, exists && atomic_add(arrivals + sample * rows + patch_row, 1) == kPatch * parts - 1);
    }
    device_fence();
  }
  block_barrier();
  // A sum of n terms in float32 is off by less than n 2^-24 of itself. One warp adds C / 8 terms; those of the warps
  // and of the cells of a patch are fewer than kOtherTerms. Twice that is allowed.
  constexpr int kOtherTerms = 64;
  const float up = 1.0f + static_cast<float>(p.channels / kPrepareWarps + kOtherTerms) * power_of_two(-23);
  for (int i = 0; i < kPatch; i++) {
    if (finished.load(i) == 0) continue;
    if (is_query) finish_query_row(p, sample, row - i, scale, up);
    if (is_key) finish_key_row(p, sample, row - i, scale, up);
  }
}

// Grid: prepare_blocks(problem, one_map). Shared memory: kPrepareShared bytes.
template <class Element>
PATCHSWAP_KERNEL(kPrepareBound)
prepare(const Preparation<Element> work) {
  allow_next_launch();
  const Problem& p = work.problem;
  int64_t block = block_index();
  if (block < p.batch) {
    if (block == 0 && thread_index() < 2) p.tally[thread_index()] = 0;
    plan_queries(p, work.cost, static_cast<int>(block), work.workspace, shared_memory<int>(0, kPlanShared));
    return;
  }
  block -= p.batch;
  const int64_t query_blocks = p.batch * parts_of_map(p.query);
  if (block < query_blocks) {
    prepare_part(p, p.query, work.query, work.query_is_channels_last, work.query_is_shared, work.query_arrivals, block,
                 true, work.one_map);
  } else {
    prepare_part(p, p.key, work.key, work.key_is_channels_last, work.key_is_shared, work.key_arrivals,
                 block - query_blocks, false, true);
  }
}

}  // namespace patchswap
