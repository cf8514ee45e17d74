// similarity and its gradients on the GPU. Not measured on a GPU yet.
//
//   square_cells, invert_norms   first, for each of the two maps: one over the norm of every patch
//   similarity                   one launch
//   similarity_query_backward    one
//   similarity_key_backward      five: count_choices, place_runs, list_runs, sort_runs, similarity_key_backward
//
// Sums have a fixed order, and no atomics. Where a number is a sum over channels (square_cells, similarity), a lane has
// one cell, or one pair of patches, and the warps of a block share the channels: neighbouring lanes read neighbouring
// cells. The gradients are gathers as fold is: a thread has one cell of the result in up to kSlabChannels channels, and
// takes, of each pair of patches with this cell, the cell of the other patch. Which queries chose a key say the runs of
// chosen.cuh.
//
// Maps may have any strides. Of maps that are channels last a lane reads the channels side by side.
#pragma once

#include <cstdint>

#include "cell_tiles.cuh"
#include "chosen.cuh"
#include "device.cuh"
#include "inverse_norm.cuh"
#include "limits.cuh"

namespace patchswap {

constexpr int kPairThreads = 256;  // of a block that shares the channels of kWarp cells or pairs
constexpr int kPairWarps = kPairThreads / kWarp;
constexpr int kGatherCells = 256;               // most cells of a block of a gradient, a thread each
constexpr int kGatherBound = 3 * kGatherCells;  // for the compiler: no more registers than let three blocks reside
constexpr int kPairShared = kPairThreads * static_cast<int>(sizeof(double));  // bytes, whatever the sums are

// A (B, C, height, width) map; strides count numbers.
template <class Element>
struct MapView {
  const Element* features;
  int64_t strides[4];
  int height, width;

  PATCHSWAP_HOST_DEVICE int cells() const { return height * width; }
  PATCHSWAP_DEVICE const Element* at(int64_t sample, int64_t channel, int cell) const {
    return features + sample * strides[0] + channel * strides[1] + cell / width * strides[2] +
           cell % width * strides[3];
  }
};

template <class Element, class Sum>
struct SimilarityWork {
  Chosen shape;
  int64_t channels;
  MapView<Element> query, key;
  const Sum *query_norm, *key_norm;  // [B][patches] one over the norm
  Sum* score;                        // [layers][queries] result of similarity, given to its gradients
  // Of the gradients.
  const Sum* grad;  // [layers][queries]
  CellTiles tiles;  // of the result
  Element* result;  // contiguous, of the shape of query or key
};

inline int64_t pair_blocks(int64_t count) { return (count + kWarp - 1) / kWarp; }

// In the first warp: what the same lane of all warps has, added up in their order. All threads of the block call it.
template <class Sum>
PATCHSWAP_DEVICE Sum sum_of_warps(Sum value) {
  const Shared<Sum> values = shared_memory<Sum>(0, kPairThreads);
  values.store(thread_index(), value);
  block_barrier();
  Sum total = 0;
  if (thread_index() < kWarp) {
    for (int warp = 0; warp < kPairWarps; warp++) total += values.load(warp * kWarp + thread_index());
  }
  return total;
}

// Grid: pair_blocks(B * cells) blocks. squares: [B][cells], the sum over channels.
template <class Sum, class Element>
PATCHSWAP_KERNEL(kPairThreads)
square_cells(const MapView<Element> map, int64_t batch, int64_t channels, Sum* squares) {
  const int warp = thread_index() / kWarp;
  const int64_t cell = static_cast<int64_t>(block_index()) * kWarp + thread_index() % kWarp;
  const bool exists = cell < batch * map.cells();
  Sum sum = 0;
  if (exists) {
    const Element* from = map.at(cell / map.cells(), 0, static_cast<int>(cell % map.cells()));
#pragma unroll 4
    for (int64_t channel = warp; channel < channels; channel += kPairWarps) {
      const Sum number = static_cast<Sum>(from[channel * map.strides[1]]);
      sum += number * number;
    }
  }
  const Sum total = sum_of_warps(sum);
  if (warp == 0 && exists) squares[cell] = total;
}

// One thread per patch of a map of (B, height, width). norms: [B][rows][columns].
template <class Sum>
PATCHSWAP_KERNEL(kRunThreads)
invert_norms(const Sum* squares, int64_t batch, int height, int width, int patch_size, Sum* norms) {
  const int rows = height - patch_size + 1, columns = width - patch_size + 1;
  const int64_t patch = run_thread();
  if (patch >= batch * rows * columns) return;
  const int64_t sample = patch / (rows * columns);
  const int place = static_cast<int>(patch % (rows * columns));
  const Sum* from = squares + sample * height * width + place / columns * width + place % columns;
  Sum square = 0;
  for (int dy = 0; dy < patch_size; dy++) {
    for (int dx = 0; dx < patch_size; dx++) square += from[dy * width + dx];
  }
  norms[patch] = inverse_norm(square);
}

// Grid: pair_blocks(layers * queries) blocks.
template <class Sum, class Element>
PATCHSWAP_KERNEL(kPairThreads)
similarity(const SimilarityWork<Element, Sum> work) {
  const Chosen& p = work.shape;
  const int warp = thread_index() / kWarp;
  const int64_t pair = static_cast<int64_t>(block_index()) * kWarp + thread_index() % kWarp;
  const bool exists = pair < p.layers() * p.queries();
  const int64_t layer = pair / p.queries(), sample = layer / p.ranks;
  const int place = static_cast<int>(pair % p.queries()), row = place / p.columns, column = place % p.columns;
  const int key = exists ? p.key_of(layer, row, column) : -1;
  Sum sum = 0;
#pragma unroll 1
  for (int tap = 0; key >= 0 && tap < p.patch_size * p.patch_size; tap++) {
    const int dy = tap / p.patch_size, dx = tap % p.patch_size;
    const Element* left = work.query.at(sample, 0, (row + dy) * p.width + column + dx);
    const Element* right = work.key.at(sample, 0, p.key_cell(key, dy, dx));
#pragma unroll 4
    for (int64_t channel = warp; channel < work.channels; channel += kPairWarps) {
      sum += static_cast<Sum>(left[channel * work.query.strides[1]]) *
             static_cast<Sum>(right[channel * work.key.strides[1]]);
    }
  }
  const Sum total = sum_of_warps(sum);
  if (warp != 0 || !exists) return;
  work.score[pair] =
      key < 0 ? -infinity<Sum>()
              : total * work.key_norm[sample * p.keys() + key] * work.query_norm[sample * p.queries() + place];
}

// ---- gradients

// What is taken off the numbers of a cell itself: number * root * signed_root. Two factors, as their product may leave
// the range of float32 where norms are tiny. Nothing, if `total` is 0: a cell in no pair may hold what is not finite.
template <class Sum>
struct OwnShare {
  Sum root, signed_root;

  PATCHSWAP_DEVICE explicit OwnShare(double total) {
    root = static_cast<Sum>(square_root(total < 0 ? -total : total));
    signed_root = total < 0 ? -root : root;
  }
  PATCHSWAP_DEVICE Sum of(Sum number) const { return root == 0 ? Sum(0) : signed_root * (root * number); }
};

// Grid: tiles.blocks(B) blocks of tiles.threads threads.
template <class Sum, class Element>
PATCHSWAP_KERNEL(kGatherBound)
similarity_query_backward(const SimilarityWork<Element, Sum> work) {
  const Chosen& p = work.shape;
  const CellShare share(work.tiles);
  if (share.cell >= work.tiles.cells) return;
  const int size = p.patch_size, y = share.cell / p.width, x = share.cell % p.width;
  // The key that the query whose cell number step % (p * p) is this one has in a rank, and the pair of them.
  const auto pair_of = [&](int step, int64_t* pair) {
    const int64_t layer = share.sample * p.ranks + step / (size * size);
    const int row = y - step % (size * size) / size, column = x - step % size;
    *pair = layer * p.queries() + row * p.columns + column;
    return p.key_of(layer, row, column);
  };

  double total = 0;
#pragma unroll 1
  for (int step = 0; step < p.ranks * size * size; step++) {
    int64_t pair;
    if (pair_of(step, &pair) < 0) continue;
    const double norm = work.query_norm[share.sample * p.queries() + pair % p.queries()];
    total += static_cast<double>(work.grad[pair]) * work.score[pair] * norm * norm;
  }
  const OwnShare<Sum> own(total);

  constexpr int kAtOnce = 32 / static_cast<int>(sizeof(Sum));
  const int64_t first_channel = share.first_plane - share.sample * work.channels;
  const Element* self = work.query.at(share.sample, first_channel, share.cell);
  const int64_t plane = work.tiles.cells;
  Element* result = work.result + share.first_plane * plane + share.cell;
#pragma unroll 1
  for (int done = 0; done < share.channels; done += kAtOnce) {
    Sum sum[kAtOnce] = {};
#pragma unroll 1
    for (int step = 0; step < p.ranks * size * size; step++) {
      int64_t pair;
      const int key = pair_of(step, &pair), tap = step % (size * size);
      if (key < 0) continue;
      const Sum scale = work.grad[pair] * work.query_norm[share.sample * p.queries() + pair % p.queries()];
      const Sum norm = work.key_norm[share.sample * p.keys() + key];
      const Element* number = work.key.at(share.sample, first_channel + done, p.key_cell(key, tap / size, tap % size));
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        if (done + i < share.channels) sum[i] += scale * (norm * static_cast<Sum>(number[i * work.key.strides[1]]));
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (done + i >= share.channels) continue;
      const Sum number = static_cast<Sum>(self[(done + i) * work.query.strides[1]]);
      result[(done + i) * plane] = static_cast<Element>(sum[i] - own.of(number));
    }
  }
}

// One thread per pair.
PATCHSWAP_KERNEL(kRunThreads)
count_choices(const Chosen p, const Runs runs) { count_run(p, runs); }

// Grid: tiles.blocks(B) blocks of tiles.threads threads.
template <class Sum, class Element>
PATCHSWAP_KERNEL(kGatherBound)
similarity_key_backward(const SimilarityWork<Element, Sum> work, const Runs runs) {
  const Chosen& p = work.shape;
  const CellShare share(work.tiles);
  if (share.cell >= work.tiles.cells) return;
  const int size = p.patch_size, y = share.cell / p.key_width, x = share.cell % p.key_width;
  // Calls visit(query, pair, norm, cell) for every query that chose a patch with this cell: its place in the grid, the
  // pair, one over the norm of that patch, and the cell of the query that lies on this one.
  const auto for_each_choice = [&](const auto& visit) {
#pragma unroll 1
    for (int step = 0; step < p.ranks * size * size; step++) {
      const int tap = step % (size * size), row = y - tap / size, column = x - tap % size;
      const int64_t layer = share.sample * p.ranks + step / (size * size), run = p.run_of(layer, row, column);
      if (run < 0) continue;
      const Sum norm = work.key_norm[share.sample * p.keys() + row * p.key_columns + column];
      const int32_t* member = runs.ordered + runs.begin[run];
      const int length = runs.length[run];
#pragma unroll 1
      for (int i = 0; i < length; i++) {
        const int query = member[i] / p.width * p.columns + member[i] % p.width;
        visit(query, layer * p.queries() + query, norm, member[i] + tap / size * p.width + tap % size);
      }
    }
  };

  double total = 0;
  for_each_choice([&](int, int64_t pair, Sum norm, int) {
    total += static_cast<double>(work.grad[pair]) * work.score[pair] * norm * norm;
  });
  const OwnShare<Sum> own(total);

  constexpr int kAtOnce = 32 / static_cast<int>(sizeof(Sum));
  const int64_t first_channel = share.first_plane - share.sample * work.channels;
  const Element* self = work.key.at(share.sample, first_channel, share.cell);
  const int64_t plane = work.tiles.cells;
  Element* result = work.result + share.first_plane * plane + share.cell;
#pragma unroll 1
  for (int done = 0; done < share.channels; done += kAtOnce) {
    Sum sum[kAtOnce] = {};
    for_each_choice([&](int query, int64_t pair, Sum norm, int cell) {
      const Sum scale = work.grad[pair] * norm;
      const Sum query_norm = work.query_norm[share.sample * p.queries() + query];
      const Element* number = work.query.at(share.sample, first_channel + done, cell);
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        if (done + i < share.channels) {
          sum[i] += scale * (query_norm * static_cast<Sum>(number[i * work.query.strides[1]]));
        }
      }
    });
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (done + i >= share.channels) continue;
      const Sum number = static_cast<Sum>(self[(done + i) * work.key.strides[1]]);
      result[(done + i) * plane] = static_cast<Element>(sum[i] - own.of(number));
    }
  }
}

}  // namespace patchswap
