// How direct matching cuts maps into tiles of patches, and what its kernels know of a pair of them.
//
// A tile holds the patches of a rectangle of the patch grid, and the cells that these cover. Cells at the rim of a tile
// belong to its neighbours too.
#pragma once

#include <cstdint>

#include "../metric.h"
#include "device.cuh"

namespace patchswap {

// Most cells of a tile, a multiple of kProductSide; a map of 128 or 256 cells a side is cut into whole tiles of 64 or
// so patches a side. Products of two such tiles are 77 MiB in float, 153 in double.
constexpr int kMostTileCells = 4480;
constexpr int64_t kProductNumbers = int64_t{kMostTileCells} * kMostTileCells;
constexpr int kProductSide = 128;  // cells of a tile, and places for them, come in this many

struct Tiling {
  int64_t rows, columns;            // of the patch grid
  int64_t tile_rows, tile_columns;  // patches of a tile; those at the end may have fewer
  int64_t down, across;             // tiles

  PATCHSWAP_HOST_DEVICE int64_t patches() const { return rows * columns; }
  PATCHSWAP_HOST_DEVICE int64_t tiles() const { return down * across; }
};

struct Tile {
  int64_t number, row, column;  // of its first patch
  int rows, columns;            // patches

  PATCHSWAP_HOST_DEVICE int patches() const { return rows * columns; }
};

PATCHSWAP_HOST_DEVICE Tile tile_of(const Tiling& tiling, int64_t number) {
  const int64_t row = number / tiling.across * tiling.tile_rows, column = number % tiling.across * tiling.tile_columns;
  const int64_t rows = tiling.rows - row, columns = tiling.columns - column;
  return {number, row, column, static_cast<int>(rows < tiling.tile_rows ? rows : tiling.tile_rows),
          static_cast<int>(columns < tiling.tile_columns ? columns : tiling.tile_columns)};
}

// Few tiles of up to most_cells cells (p x p at least), about square where the map is.
template <int P>
Tiling tiling_of(int64_t height, int64_t width, int64_t most_cells) {
  const int64_t rows = height - P + 1, columns = width - P + 1;
  if (rows <= 0 || columns <= 0) return {};
  int64_t down = 1, across = 1;
  while (true) {
    const int64_t tile_rows = (rows + down - 1) / down, tile_columns = (columns + across - 1) / across;
    if ((tile_rows + P - 1) * (tile_columns + P - 1) <= most_cells) {
      return {rows,
              columns,
              tile_rows,
              tile_columns,
              (rows + tile_rows - 1) / tile_rows,
              (columns + tile_columns - 1) / tile_columns};
    }
    (tile_rows > tile_columns ? down : across)++;
  }
}

template <int P>
int cell_pitch_of(const Tiling& tiling) {
  if (tiling.tiles() == 0) return 0;
  const int64_t cells = (tiling.tile_rows + P - 1) * (tiling.tile_columns + P - 1);
  return static_cast<int>((cells + kProductSide - 1) / kProductSide * kProductSide);
}

// One map, without its features.
template <class Sum>
struct DirectMap {
  int64_t batch, channels, height, width;
  Tiling tiling;
  Metric metric;
  bool is_query;
  const bool* mask;       // [B][rows][columns], or null for all
  const Sum* weight;      // of keys, [B][rows][columns], or null for 1
  Sum* square;            // [B][height][width] squared norms of cells
  int64_t sample_stride;  // numbers from one sample's features to the next: 0 where one map is that of all samples
  // Of metric.h, [B][rows][columns]: scale, kExcluded where the patch takes no part, and bias, null where all are 0.
  Sum *scale, *bias;
  // The cells of each tile that are needed have places in row-major order.
  int* place;      // [B][tiles][cell_pitch] by cell of the tile: its place, or -1
  int* cell;       // [B][tiles][cell_pitch] by place: the cell of the tile
  int* count;      // [B][tiles] cells that have a place
  int cell_pitch;  // at least the cells of a tile, a multiple of kProductSide

  // Number in [B][rows][columns] of a patch of a tile.
  PATCHSWAP_HOST_DEVICE int64_t patch(int64_t sample, const Tile& tile, int row, int column) const {
    return (sample * tiling.rows + tile.row + row) * tiling.columns + tile.column + column;
  }
  PATCHSWAP_HOST_DEVICE const int* places(int64_t sample, const Tile& tile) const {
    return place + (sample * tiling.tiles() + tile.number) * cell_pitch;
  }
};

template <class Sum>
struct TilePair {
  DirectMap<Sum> query, key;
  Tile query_tile, key_tile;
  int64_t first_sample;
  int samples, slices, topk, patch_size;
  bool is_first;         // no key tile came before this one: there are no candidates yet
  Sum* product;          // [samples][place in the key tile][place in the query tile], pitches cell_pitch
  Sum* slice_score;      // [samples][slices][topk][queries of the tile]
  int64_t* slice_index;  // the same
  Sum* score;            // [B][topk][queries]
  Sum* ranking;          // the same, or null; of match_part
  int64_t* index;        // [B][topk][queries]
};

}  // namespace patchswap
