// fold and its gradients on the GPU.
//
//   fold                     one launch
//   fold_backward            five: count_runs, place_runs, list_runs, order_runs, fold_backward
//   fold_weights_backward    one
//
// All are gathers, without atomics on features. A thread of the first two has one cell of the result and adds up what
// falls on it in a fixed order; where that comes from is looked up for several channels at once. Cells that nothing
// falls on, most of them where a hole is filled, are copied or zeroed 16 bytes at a time. A thread of
// fold_weights_backward has one query and all channels of the cells that its patch covers.
//
// The first two are compiled for copies that count the same (EqualWeights) and as weights say (GivenWeights).
//
// The result is channels first. Keys may be channels last: then the channels that a lane reads lie side by side, and it
// uses all of each sector of 32 bytes that memory hands out. Of keys that are channels first a lane reads single
// numbers from the cells that its patches chose. That is cheap if a sector, once in the first-level cache, serves many
// of these reads. Hence a block works on many cells (kTileCells) of few planes (kChannelsAtOnce) at a time. The other
// form, two passes of which the first copies the keys channels last, would read and write the whole map once more. One
// pass fetches less where neighbouring patches come from neighbouring places, as those of photographs do, and more
// where they do not.
//
// The gradient of a key cell comes from the queries that chose a patch with that cell. They are kept as one run of
// queries for each key patch: counted, listed in the order in which atomics let them arrive, and then ordered, by
// counting for each query those of its run that come before it. That takes time with the square of the longest runs,
// but most have a few members, it is done once for all channels, and a sort of the index takes about a dozen launches.
#pragma once

#include <cstdint>
#include <type_traits>

#include "device.cuh"

namespace patchswap {

constexpr int kTileCells = 512;             // most cells of a block, a thread each
constexpr int kFoldBound = 2 * kTileCells;  // for the compiler: no more registers than let two blocks reside
constexpr int kSlabChannels = 16;           // channels of a block
// What a thread reads before it uses any of it, as far as registers go: channels of one tap, and taps.
template <int P, class Sum>
constexpr int kChannelsAtOnce = (P == 1 ? 16 : 32) / static_cast<int>(sizeof(Sum));
template <int P>
constexpr int kTapsAtOnce = P == 3 ? 3 : 1;
constexpr int kRunThreads = 256;
constexpr int kRunShared = kRunThreads * 4 + kRunThreads / kWarp * 8;  // bytes of shared memory of place_runs
// Of either map, in one channel of one sample: cells, and all that is counted within a sample, are numbered in 32 bits.
constexpr int64_t kMostCells = 1 << 30;
constexpr double kLargestWeight = 1e37;  // so that those of a cell have a finite sum in float32

// Sizes as in struct FoldCall.
struct FoldShape {
  const int64_t* index;  // [B][rows][columns]
  int64_t batch;
  int height, width, key_height, key_width;
  int rows, columns, key_rows, key_columns;

  PATCHSWAP_DEVICE int cells() const { return height * width; }
  PATCHSWAP_DEVICE int keys() const { return key_rows * key_columns; }
  PATCHSWAP_DEVICE int queries() const { return rows * columns; }
  // The key patch that the query at (row, column) has, or -1.
  PATCHSWAP_DEVICE int key_of(int64_t sample, int row, int column) const {
    const bool is_query = row >= 0 && row < rows && column >= 0 && column < columns;
    const int64_t key = is_query ? index[sample * queries() + row * columns + column] : -1;
    return key >= 0 && key < keys() ? static_cast<int>(key) : -1;
  }
  // The key cell in row dy and column dx of this key patch.
  PATCHSWAP_DEVICE int key_cell(int key, int dy, int dx) const {
    return (key / key_columns + dy) * key_width + key % key_columns + dx;
  }
};

// The weight of the copy of a query in the cells that it covers: 1 for each, so that cells become plain means.
struct EqualWeights {
  using Cover = int;
  // 0 where the query has no patch.
  PATCHSWAP_DEVICE int of(const FoldShape& p, int64_t sample, int row, int column) const {
    return p.key_of(sample, row, column) >= 0;
  }
};

// As much as is given for each query. What is no weight counts as 0.
template <class Weight>
struct GivenWeights {
  using Cover = Weight;
  const Weight* weights;  // [B][rows][columns]

  PATCHSWAP_DEVICE Weight of(const FoldShape& p, int64_t sample, int row, int column) const {
    if (p.key_of(sample, row, column) < 0) return 0;
    const Weight weight = weights[sample * p.queries() + row * p.columns + column];
    return weight > 0 && weight <= static_cast<Weight>(kLargestWeight) ? weight : 0;
  }
};

// What the patches over cell (y, x) count together; nothing (0) for cells below the last row of patches.
template <int P, class Weights>
PATCHSWAP_DEVICE typename Weights::Cover cover_of(const FoldShape& p, const Weights& weights, int64_t sample, int y,
                                                  int x) {
  typename Weights::Cover cover = 0;
#pragma unroll
  for (int tap = 0; tap < P * P; tap++) cover += weights.of(p, sample, y - tap / P, x - tap % P);
  return cover;
}

// How a result (B, channels, cells) is shared among blocks: tiles of neighbouring cells by slabs of channels.
struct FoldTiles {
  int64_t channels, slabs;
  int cells, tiles;
  int threads;  // of a block: the cells of a tile, in whole warps

  int64_t blocks(int64_t batch) const { return batch * slabs * tiles; }
};

inline FoldTiles fold_tiles(int64_t cells, int64_t channels) {
  const int64_t tiles = (cells + kTileCells - 1) / kTileCells, tile_cells = (cells + tiles - 1) / tiles;
  return {.channels = channels,
          .slabs = (channels + kSlabChannels - 1) / kSlabChannels,
          .cells = static_cast<int>(cells),
          .tiles = static_cast<int>(tiles),
          .threads = static_cast<int>((tile_cells + kWarp - 1) / kWarp * kWarp)};
}

// What a thread has of the result: one cell, in up to kSlabChannels channels.
struct FoldShare {
  int64_t sample, first_plane;  // planes are counted through the batch
  int cell, channels;           // cell is tiles.cells or more for threads without work

  PATCHSWAP_DEVICE explicit FoldShare(const FoldTiles& tiles) {
    const int64_t slab = block_index() / tiles.tiles, first_channel = slab % tiles.slabs * kSlabChannels;
    const int64_t left = tiles.channels - first_channel;
    sample = slab / tiles.slabs;
    first_plane = sample * tiles.channels + first_channel;
    cell = block_index() % tiles.tiles * tiles.threads + thread_index();
    channels = left < kSlabChannels ? static_cast<int>(left) : kSlabChannels;
  }
};

// Of fold: source is key (B, C, key_height, key_width), result and base, unless null, are (B, C, height, width).
// Of fold_backward: source is grad_output (B, C, height, width), result is (B, C, key_height, key_width), base is null.
template <class Element>
struct FoldWork {
  FoldShape shape;
  FoldTiles tiles;  // of the result
  const Element* source;
  const Element* base;
  Element* result;
  // Of fold: the source is (B, key_height, key_width, C) instead; the cells that no patch covers are left as they are.
  bool is_channels_last, is_laid;
};

// The queries that chose each key patch.
struct Runs {
  int64_t* used;     // [1] how much of the lists has been given to runs; starts at 0
  int64_t* begin;    // [B][keys] where in the lists the run begins
  int32_t* length;   // [B][keys] starts at 0
  int32_t* arrival;  // [B][queries] place within its run at which a matched query arrived
  int32_t* arrived;  // [B * queries] top-left cells of queries, run by run, in the order of arrival
  int32_t* ordered;  // [B * queries] the same, each run ascending
};

// Values that lie `pitch` apart, N of them read before the first is written; zeros without a source.
template <int N, class Value>
PATCHSWAP_DEVICE void copy_values(const Value* from, Value* to, int64_t pitch) {
  Value values[N] = {};
  if (from != nullptr) {
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = from[i * pitch];
  }
#pragma unroll
  for (int i = 0; i < N; i++) to[i * pitch] = values[i];
}

template <int N, class Value>
PATCHSWAP_DEVICE void copy_values(const Value* from, Value* to, int64_t pitch, int count) {
  int done = 0;
#pragma unroll 1
  for (; done + N <= count; done += N) {
    copy_values<N>(from == nullptr ? nullptr : from + done * pitch, to + done * pitch, pitch);
  }
#pragma unroll 1
  for (; done < count; done++)
    copy_values<1>(from == nullptr ? nullptr : from + done * pitch, to + done * pitch, pitch);
}

// Writes base, or 0 without it, to the lane's cell in all channels where `is_empty`. Both pointers are at cell 0 of the
// first channel. All lanes of a warp call together. Neighbouring cells that fill 16 bytes and are all empty are taken
// by their lanes together, 16 bytes at a time, each lane in other channels.
template <class Element>
PATCHSWAP_DEVICE void write_empty(const Element* base, Element* result, int64_t plane, int cell, int channels,
                                  bool is_empty) {
  constexpr int kPiece = 16 / static_cast<int>(sizeof(Element));
  const uint32_t empty = ballot(is_empty);
  if (!is_empty) return;
  const int lane = thread_index() % kWarp, place = lane % kPiece;
  const uint32_t piece = ((1u << kPiece) - 1) << (lane - place);
  const uint64_t alignment = reinterpret_cast<uint64_t>(base) | reinterpret_cast<uint64_t>(result) |
                             static_cast<uint64_t>(plane) * sizeof(Element);
  const bool in_pieces = alignment % 16 == 0 && (empty & piece) == piece;
  const int64_t first = in_pieces ? place * plane + cell - place : cell;
  const Element* from = base == nullptr ? nullptr : base + first;
  Element* to = result + first;
  if (in_pieces) {
    constexpr int kPieces = kSlabChannels / kPiece;
    copy_values < kPieces<4 ? kPieces : 4>(reinterpret_cast<const Words*>(from), reinterpret_cast<Words*>(to), plane,
                                           (channels - place + kPiece - 1) / kPiece);
  } else {
    copy_values<4>(from, to, plane, channels);
  }
}

// Grid: tiles.blocks(B) blocks of tiles.threads threads.
template <int P, class Sum, class Element, class Weights>
PATCHSWAP_KERNEL(kFoldBound)
fold(const FoldWork<Element> work, const Weights weights) {
  constexpr bool kIsWeighted = !std::is_same_v<Weights, EqualWeights>;
  const FoldShape& p = work.shape;
  const FoldShare share(work.tiles);
  const int y = share.cell / p.width, x = share.cell % p.width;
  const auto cover = cover_of<P>(p, weights, share.sample, y, x);  // 0 in threads without a cell, too

  const int64_t plane = work.tiles.cells, key_plane = p.key_height * p.key_width;
  const Element* base = work.base == nullptr ? nullptr : work.base + share.first_plane * plane;
  Element* result = work.result + share.first_plane * plane;
  if (!work.is_laid) {
    write_empty(base, result, plane, share.cell, share.channels, share.cell < work.tiles.cells && cover == 0);
  }
  if (cover == 0) return;

  constexpr int kAtOnce = kChannelsAtOnce<P, Sum>;
  const int64_t channels = work.tiles.channels, first_channel = share.first_plane - share.sample * channels;
  const int64_t channel_pitch = work.is_channels_last ? 1 : key_plane;
  const int64_t cell_pitch = work.is_channels_last ? channels : 1;
  const Element* source = work.source + share.sample * channels * key_plane + first_channel * channel_pitch;
  result += share.cell;
#pragma unroll 1
  for (int left = share.channels; left > 0; left -= kAtOnce) {
    Sum sum[kAtOnce] = {};
#pragma unroll kTapsAtOnce < P>
    for (int tap = 0; tap < P * P; tap++) {
      const int key = p.key_of(share.sample, y - tap / P, x - tap % P);
      const Element* number = source + p.key_cell(key, tap / P, tap % P) * cell_pitch;
      if constexpr (kIsWeighted) {
        const Sum part = weights.of(p, share.sample, y - tap / P, x - tap % P) / cover;
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) {
          sum[i] += part > 0 && i < left ? part * static_cast<Sum>(*number) : Sum(0);
          number += channel_pitch;
        }
      } else {
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) {
          sum[i] += key >= 0 && i < left ? static_cast<Sum>(*number) : Sum(0);
          number += channel_pitch;
        }
      }
    }
    source += kAtOnce * channel_pitch;
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (i < left) *result = static_cast<Element>(kIsWeighted ? sum[i] : sum[i] / static_cast<Sum>(cover));
      result += plane;
    }
  }
}

// ---- gradient with respect to key

PATCHSWAP_DEVICE int64_t run_thread() { return static_cast<int64_t>(block_index()) * kRunThreads + thread_index(); }
inline int64_t run_blocks(int64_t threads) { return (threads + kRunThreads - 1) / kRunThreads; }

// One thread per cell of (B, height, width): what the patches over it count together, for fold_backward, and the
// arrival of the query that begins there.
template <int P, class Weights>
PATCHSWAP_KERNEL(kRunThreads)
count_runs(const FoldShape p, const Runs runs, const Weights weights, typename Weights::Cover* covers) {
  const int64_t thread = run_thread();
  if (thread >= p.batch * p.cells()) return;
  const int64_t sample = thread / p.cells();
  const int cell = static_cast<int>(thread % p.cells()), y = cell / p.width, x = cell % p.width;
  covers[thread] = cover_of<P>(p, weights, sample, y, x);
  const int key = p.key_of(sample, y, x);
  if (key < 0) return;
  runs.arrival[sample * p.queries() + y * p.columns + x] = atomic_add(runs.length + sample * p.keys() + key, 1);
}

// One thread per (sample, key): a place in the lists for its run. A warp asks for all of its runs together. Where a
// run lies depends on which warp comes first; what fold_backward reads from it does not.
PATCHSWAP_KERNEL(kRunThreads)
place_runs(const FoldShape p, const Runs runs) {
  const Shared<int64_t> begins = shared_memory<int64_t>(0, kRunThreads / kWarp);
  const Shared<int> lengths = shared_memory<int>(kRunThreads / kWarp * 8, kRunThreads);
  const int64_t key = run_thread();
  const bool exists = key < p.batch * p.keys();
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  lengths.store(thread, exists ? runs.length[key] : 0);
  warp_barrier();
  int64_t before = 0, all = 0;  // lengths of this warp's runs
  for (int i = 0; i < kWarp; i++) {
    const int length = lengths.load(warp * kWarp + i);
    before += i < lane ? length : 0;
    all += length;
  }
  if (lane == 0) begins.store(warp, all > 0 ? atomic_add(runs.used, all) : 0);
  warp_barrier();
  if (exists) runs.begin[key] = begins.load(warp) + before;
}

// The query of a thread of list_runs and order_runs, which have one thread per (sample, query).
struct Member {
  int64_t query = 0, run = -1;  // counted through the batch; run is -1 for a query without a match
  int cell = 0;

  PATCHSWAP_DEVICE explicit Member(const FoldShape& p) {
    query = run_thread();
    if (query >= p.batch * p.queries()) return;
    const int64_t sample = query / p.queries();
    const int place = static_cast<int>(query % p.queries()), row = place / p.columns, column = place % p.columns;
    const int key = p.key_of(sample, row, column);
    cell = row * p.width + column;
    if (key >= 0) run = sample * p.keys() + key;
  }
};

PATCHSWAP_KERNEL(kRunThreads)
list_runs(const FoldShape p, const Runs runs) {
  const Member member(p);
  if (member.run >= 0) runs.arrived[runs.begin[member.run] + runs.arrival[member.query]] = member.cell;
}

PATCHSWAP_KERNEL(kRunThreads)
order_runs(const FoldShape p, const Runs runs) {
  const Member member(p);
  if (member.run < 0) return;
  const int64_t begin = runs.begin[member.run];
  const int length = runs.length[member.run];
  int place = 0;
  for (int i = 0; i < length; i++) place += runs.arrived[begin + i] < member.cell;
  runs.ordered[begin + place] = member.cell;
}

// covers: [B][height][width], of count_runs. Grid: tiles.blocks(B) blocks of tiles.threads threads.
template <int P, class Sum, class Element, class Weights>
PATCHSWAP_KERNEL(kFoldBound)
fold_backward(const FoldWork<Element> work, const Runs runs, const Weights weights,
              const typename Weights::Cover* covers) {
  constexpr bool kIsWeighted = !std::is_same_v<Weights, EqualWeights>;
  const FoldShape& p = work.shape;
  const FoldShare share(work.tiles);
  const int y = share.cell / p.key_width, x = share.cell % p.key_width;
  // The run of the key patch whose cell number `tap` is this one, of the batch; -1 where there is none.
  const auto run_of = [&](int tap) -> int64_t {
    const int row = y - tap / P, column = x - tap % P;
    const bool is_key = row >= 0 && row < p.key_rows && column >= 0 && column < p.key_columns;
    return is_key ? share.sample * p.keys() + row * p.key_columns + column : -1;
  };

  bool is_chosen = false;
#pragma unroll P
  for (int tap = 0; tap < P * P; tap++) {
    const int64_t run = run_of(tap);
    is_chosen |= (run >= 0 ? runs.length[run] : 0) > 0;
  }
  const int64_t plane = p.cells(), key_plane = work.tiles.cells;
  Element* result = work.result + share.first_plane * key_plane;
  write_empty<Element>(nullptr, result, key_plane, share.cell, share.channels,
                       share.cell < work.tiles.cells && !is_chosen);
  if (!is_chosen) return;

  constexpr int kAtOnce = kChannelsAtOnce<P, Sum>;
  covers += share.sample * plane;
  const Element* grad = work.source + share.first_plane * plane;
  result += share.cell;
#pragma unroll 1
  for (int left = share.channels; left > 0; left -= kAtOnce) {
    Sum sum[kAtOnce] = {};
#pragma unroll 1
    for (int tap = 0; tap < P * P; tap++) {
      const int64_t run = run_of(tap);
      if (run < 0) continue;
      const int32_t* member = runs.ordered + runs.begin[run];
      const int length = runs.length[run];
#pragma unroll 1
      for (int i = 0; i < length; i++) {
        const int cell = member[i] + tap / P * p.width + tap % P;
        const Sum cover = static_cast<Sum>(covers[cell]);
        if constexpr (kIsWeighted) {
          const Sum weight = weights.of(p, share.sample, member[i] / p.width, member[i] % p.width);
          if (weight == 0) continue;
          const Sum part = weight / cover;
#pragma unroll
          for (int channel = 0; channel < kAtOnce; channel++) {
            if (channel < left) sum[channel] += part * static_cast<Sum>(grad[channel * plane + cell]);
          }
        } else {
#pragma unroll
          for (int channel = 0; channel < kAtOnce; channel++) {
            if (channel < left) sum[channel] += static_cast<Sum>(grad[channel * plane + cell]) / cover;
          }
        }
      }
    }
#pragma unroll
    for (int channel = 0; channel < kAtOnce; channel++) {
      if (channel < left) result[channel * key_plane] = static_cast<Element>(sum[channel]);
    }
    grad += kAtOnce * plane;
    result += kAtOnce * key_plane;
  }
}

// ---- gradient with respect to weights

// All maps are channels first.
template <class Element, class Weight>
struct FoldWeightsWork {
  FoldShape shape;
  int64_t channels;
  const Element* grad;    // (B, C, height, width)
  const Element* key;     // (B, C, key_height, key_width)
  const Element* output;  // of fold, as grad
  Weight* result;         // [B][rows][columns]
};

// One thread per (sample, query).
template <int P, class Sum, class Element>
PATCHSWAP_KERNEL(kRunThreads)
fold_weights_backward(const FoldWeightsWork<Element, Sum> work, const GivenWeights<Sum> weights) {
  const FoldShape& p = work.shape;
  const int64_t query = run_thread();
  if (query >= p.batch * p.queries()) return;
  const int64_t sample = query / p.queries(), first_plane = sample * work.channels;
  const int place = static_cast<int>(query % p.queries()), row = place / p.columns, column = place % p.columns;
  const int key = p.key_of(sample, row, column);
  const int64_t plane = p.cells(), key_plane = p.key_height * p.key_width;
  Sum total = 0;
#pragma unroll 1
  for (int tap = 0; key >= 0 && tap < P * P; tap++) {
    const int y = row + tap / P, x = column + tap % P;
    const Sum cover = cover_of<P>(p, weights, sample, y, x);
    if (cover == 0) continue;
    const int64_t cell = first_plane * plane + y * p.width + x;
    const Element* grad = work.grad + cell;
    const Element* output = work.output + cell;
    const Element* copied = work.key + first_plane * key_plane + p.key_cell(key, tap / P, tap % P);
    Sum product = 0;
#pragma unroll 4
    for (int64_t channel = 0; channel < work.channels; channel++) {
      const Sum difference = static_cast<Sum>(copied[channel * key_plane]) - static_cast<Sum>(output[channel * plane]);
      product += static_cast<Sum>(grad[channel * plane]) * difference;
    }
    total += product / cover;
  }
  work.result[query] = total;
}

}  // namespace patchswap
