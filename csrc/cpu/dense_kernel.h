// What the dense search needs of one instruction set.
#pragma once

#include <cstdint>

#include "best.h"
#include "pack.h"
#include "walk_buffers.h"

namespace patchswap {

// A thread's work in the dense search: a pair of tiles.
template <class Sum>
struct DenseTask {
  PackedTile<Sum> query, key;
  const Sum* query_bias;            // [query rows][query slots]: of metric.h, -inf where the patch is no query
  const Sum *key_scale, *key_bias;  // [key rows][key slots]
  WalkBuffers<Sum> buffers;
  Sum* ranking;    // [key slots]: of one query with a row of keys
  Best<Sum> best;  // queries count [rows][slots] of the query tile
};

// The walk compiled for one instruction set, and the panel widths that it wants.
template <class Sum>
struct DenseKernel {
  Panel<Sum> query_panel, key_panel;
  void (*search)(int64_t patch_size, const DenseTask<Sum>&, int64_t difference);
};

}  // namespace patchswap
