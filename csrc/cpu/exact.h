// Where the numbers of a tile's cells lie in full precision. kernels/exact.h ranks pairs of patches from them.
#pragma once

#include <cstdint>

#include "tiles.h"

namespace patchswap {

// The cells of a tile with their channels side by side: copied slot by slot, or where they lie in the map.
struct CellReader {
  const Tile* tile;
  const float* cells;
  int64_t row_stride, column_stride;
  bool is_copy;

  // The first cell, in its row dy, of the patch that begins at slot x of row y.
  const float* at(int64_t y, int64_t x, int64_t dy) const {
    const int64_t slot = tile->slot(dy, y, x);
    return cells + (y + dy) * row_stride +
           (is_copy ? slot : tile->cell_column[(y + dy) * tile->slots + slot]) * column_stride;
  }
};

}  // namespace patchswap
