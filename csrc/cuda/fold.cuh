// fold and its gradients on the GPU.
//
//   fold                     one launch
//   fold_backward            five: count_runs, place_runs, list_runs, sort_runs, fold_backward
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
#pragma once

#include <cstdint>
#include <type_traits>

#include "cell_tiles.cuh"
#include "chosen.cuh"
#include "device.cuh"

namespace patchswap {

constexpr int kFoldBound = 2 * kTileCells;  // for the compiler: no more registers than let two blocks reside
// What a thread reads before it uses any of it, as far as registers go: channels of one tap, and taps.
template <int P, class Sum>
constexpr int kChannelsAtOnce = (P == 1 ? 16 : 32) / static_cast<int>(sizeof(Sum));
template <int P>
constexpr int kTapsAtOnce = P == 3 ? 3 : 1;
template <int P>
constexpr int kRowTaps = P > 0 ? P : 1;
template <int P>
constexpr int kCoverTapsAtOnce = P == 3 ? 9 : kRowTaps<P>;

// The weight of the copy of a query in the cells that it covers: 1 for each, so that cells become plain means.
struct EqualWeights {
  using Cover = int;
  // 0 where the query has no patch.
  PATCHSWAP_DEVICE int of(const Chosen& p, int64_t layer, int row, int column) const {
    return p.key_of(layer, row, column) >= 0;
  }
};

// As much as is given for each query. What is no weight counts as 0.
template <class Weight>
struct GivenWeights {
  using Cover = Weight;
  const Weight* weights;  // [B][ranks][rows][columns]
  Weight most;            // so that those of a cell have a finite sum

  PATCHSWAP_DEVICE Weight of(const Chosen& p, int64_t layer, int row, int column) const {
    if (p.key_of(layer, row, column) < 0) return 0;
    const Weight weight = weights[layer * p.queries() + row * p.columns + column];
    return weight > 0 && weight <= most ? weight : 0;
  }
};

// The patch size: P, or where that is 0 what is known at run time only.
template <int P>
PATCHSWAP_DEVICE int side(const Chosen& p) {
  return P > 0 ? P : p.patch_size;
}

// What the copies over cell (y, x) count together; nothing (0) for cells below the last row of patches.
template <int P, class Weights>
PATCHSWAP_DEVICE typename Weights::Cover cover_of(const Chosen& p, const Weights& weights, int64_t sample, int y,
                                                  int x) {
  const int size = side<P>(p);
  typename Weights::Cover cover = 0;
#pragma unroll 1
  for (int rank = 0; rank < p.ranks; rank++) {
    const int64_t layer = sample * p.ranks + rank;
#pragma unroll kCoverTapsAtOnce < P>
    for (int tap = 0; tap < size * size; tap++) cover += weights.of(p, layer, y - tap / size, x - tap % size);
  }
  return cover;
}

// Of fold: source is key (B, C, key_height, key_width), result and base, unless null, are (B, C, height, width).
// Of fold_backward: source is grad_output (B, C, height, width), result is (B, C, key_height, key_width), base is null.
template <class Element>
struct FoldWork {
  Chosen shape;
  CellTiles tiles;  // of the result
  const Element* source;
  const Element* base;
  Element* result;
  // Of fold: the source is (B, key_height, key_width, C) instead; the cells that no patch covers are left as they are.
  bool is_channels_last, is_laid;
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
  const Chosen& p = work.shape;
  const CellShare share(work.tiles);
  const int size = side<P>(p), y = share.cell / p.width, x = share.cell % p.width;
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
#pragma unroll 1
    for (int rank = 0; rank < p.ranks; rank++) {
      const int64_t layer = share.sample * p.ranks + rank;
#pragma unroll kTapsAtOnce < P>
      for (int tap = 0; tap < size * size; tap++) {
        const int key = p.key_of(layer, y - tap / size, x - tap % size);
        const Element* number = source + p.key_cell(key, tap / size, tap % size) * cell_pitch;
        if constexpr (kIsWeighted) {
          const Sum part = weights.of(p, layer, y - tap / size, x - tap % size) / cover;
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

// One thread per cell of (B, height, width) and per copy: what the copies over this cell count together, for
// fold_backward, and the arrival of this copy.
template <int P, class Weights>
PATCHSWAP_KERNEL(kRunThreads)
count_runs(const Chosen p, const Runs runs, const Weights weights, typename Weights::Cover* covers) {
  const int64_t thread = run_thread();
  if (thread < p.batch * p.cells()) {
    const int cell = static_cast<int>(thread % p.cells());
    covers[thread] = cover_of<P>(p, weights, thread / p.cells(), cell / p.width, cell % p.width);
  }
  count_run(p, runs);
}

// covers: [B][height][width], of count_runs. Grid: tiles.blocks(B) blocks of tiles.threads threads.
template <int P, class Sum, class Element, class Weights>
PATCHSWAP_KERNEL(kFoldBound)
fold_backward(const FoldWork<Element> work, const Runs runs, const Weights weights,
              const typename Weights::Cover* covers) {
  constexpr bool kIsWeighted = !std::is_same_v<Weights, EqualWeights>;
  const Chosen& p = work.shape;
  const CellShare share(work.tiles);
  const int size = side<P>(p), y = share.cell / p.key_width, x = share.cell % p.key_width;

  bool is_chosen = false;
#pragma unroll 1
  for (int rank = 0; rank < p.ranks; rank++) {
#pragma unroll kRowTaps < P>
    for (int tap = 0; tap < size * size; tap++) {
      const int64_t run = p.run_of(share.sample * p.ranks + rank, y - tap / size, x - tap % size);
      is_chosen |= (run >= 0 ? runs.length[run] : 0) > 0;
    }
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
    for (int step = 0; step < p.ranks * size * size; step++) {
      const int64_t layer = share.sample * p.ranks + step / (size * size);
      const int tap = step % (size * size);
      const int64_t run = p.run_of(layer, y - tap / size, x - tap % size);
      if (run < 0) continue;
      const int32_t* member = runs.ordered + runs.begin[run];
      const int length = runs.length[run];
#pragma unroll 1
      for (int i = 0; i < length; i++) {
        const int cell = member[i] + tap / size * p.width + tap % size;
        const Sum cover = static_cast<Sum>(covers[cell]);
        if constexpr (kIsWeighted) {
          const Sum weight = weights.of(p, layer, member[i] / p.width, member[i] % p.width);
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
  Chosen shape;
  int64_t channels;
  const Element* grad;    // (B, C, height, width)
  const Element* key;     // (B, C, key_height, key_width)
  const Element* output;  // of fold, as grad
  Weight* result;         // [B][ranks][rows][columns]
};

// One thread per copy.
template <int P, class Sum, class Element>
PATCHSWAP_KERNEL(kRunThreads)
fold_weights_backward(const FoldWeightsWork<Element, Sum> work, const GivenWeights<Sum> weights) {
  const Chosen& p = work.shape;
  const int64_t copy = run_thread();
  if (copy >= p.layers() * p.queries()) return;
  const int64_t layer = copy / p.queries(), sample = layer / p.ranks, first_plane = sample * work.channels;
  const int place = static_cast<int>(copy % p.queries()), row = place / p.columns, column = place % p.columns;
  const int key = p.key_of(layer, row, column), size = side<P>(p);
  const int64_t plane = p.cells(), key_plane = p.key_height * p.key_width;
  Sum total = 0;
#pragma unroll 1
  for (int tap = 0; key >= 0 && tap < size * size; tap++) {
    const int y = row + tap / size, x = column + tap % size;
    const Sum cover = cover_of<P>(p, weights, sample, y, x);
    if (cover == 0) continue;
    const int64_t cell = first_plane * plane + y * p.width + x;
    const Element* grad = work.grad + cell;
    const Element* output = work.output + cell;
    const Element* copied = work.key + first_plane * key_plane + p.key_cell(key, tap / size, tap % size);
    Sum product = 0;
#pragma unroll 4
    for (int64_t channel = 0; channel < work.channels; channel++) {
      const Sum difference = static_cast<Sum>(copied[channel * key_plane]) - static_cast<Sum>(output[channel * plane]);
      product += static_cast<Sum>(grad[channel * plane]) * difference;
    }
    total += product / cover;
  }
  work.result[copy] = total;
}

}  // namespace patchswap
