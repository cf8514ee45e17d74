// Tiles packed for the walk, a bounded number of bytes at a time.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "buffer.h"
#include "grain.h"
#include "map.h"
#include "tiles.h"

namespace patchswap {

// How many slots a kernel reads side by side, and the function that adds up the squares of each slot's numbers.
template <class Sum>
struct Panel {
  int64_t width;
  void (*add_squares)(const Sum* row, int64_t slots, int64_t channels, double* squares);
};

// Numbers that stand for a cell; of a coarse cell, the first `leading` hold its leading axes (coarse.h).
struct CellDepth {
  int64_t numbers = 0, leading = 0;
};

// A tile whose cells lie in the order in which the walk reads them: panels of neighbouring slots, number after number.
template <class Number>
struct PackedTile {
  const Tile* tile = nullptr;
  int64_t slots = 0;
  CellDepth depth;
  const Number* cells = nullptr;  // [cell rows][slots / panel][depth.numbers][panel]

  const Number* row_cells(int64_t row) const { return cells + row * slots * depth.numbers; }
};

// The tiles from `first` on whose packed cells together take at most `most_bytes`, at least one; returns their end.
inline size_t chunk_end(const std::vector<Outline>& tiles, size_t first, int64_t patch_size, int64_t cell_bytes,
                        int64_t most_bytes) {
  int64_t bytes = 0;
  size_t end = first;
  while (end < tiles.size()) {
    bytes += tiles[end].cell_rows(patch_size) * tiles[end].slots * cell_bytes;
    if (bytes > most_bytes && end > first) break;
    end++;
  }
  return end;
}

// The contents of the tiles [first, end).
template <class Element>
std::vector<Tile> tiles_of(const Map<Element>& map, const std::vector<Outline>& outlines, size_t first, size_t end) {
  std::vector<Tile> tiles(end - first);
  torch::stable::parallel_for(0, end - first, 1, [&](int64_t begin, int64_t until) {
    for (int64_t i = begin; i < until; i++) tiles[i] = tile_of(map, outlines[first + i]);
  });
  return tiles;
}

// One cell row of a tile as [slots / panel][channels][panel] numbers, zeros in the padding. `slots` may be more or less
// than the tile's, if all that are no padding are among them.
template <class Sum, class Element>
void pack_row(const Map<Element>& map, const Tile& tile, int64_t row, int64_t slots, int64_t panel, Sum* to) {
  const int64_t count = tile.cells[row];
  const int32_t* const columns = tile.cell_column.data() + row * tile.slots;
  const Element* from = map.features + (tile.first_row + row) * map.row_stride;
  const int64_t full = count / panel * panel * map.channels;
  std::fill_n(to + full, slots * map.channels - full, Sum(0));
  if (map.channel_stride == 1) {
    for (int64_t slot = 0; slot < count; slot++) {
      const Element* cell = from + columns[slot] * map.column_stride;
      Sum* numbers = to + slot / panel * panel * map.channels + slot % panel;
      for (int64_t channel = 0; channel < map.channels; channel++) {
        numbers[channel * panel] = static_cast<Sum>(cell[channel]);
      }
    }
    return;
  }
  for (int64_t channel = 0; channel < map.channels; channel++, from += map.channel_stride) {
    Sum* numbers = to + channel * panel;
    for (int64_t slot = 0; slot < count; slot += panel, numbers += panel * map.channels) {
      const int64_t present = std::min(count - slot, panel);
      const int32_t* column = columns + slot;
      if (map.column_stride == 1 && column[present - 1] - column[0] == present - 1) {
        const Element* cells = from + column[0];
        for (int64_t i = 0; i < present; i++) numbers[i] = static_cast<Sum>(cells[i]);
      } else {
        for (int64_t i = 0; i < present; i++) numbers[i] = static_cast<Sum>(from[column[i] * map.column_stride]);
      }
    }
  }
}

// The squared norm of the patch that begins at a slot of a row. `squares` are those of the cells, from this row on.
inline double patch_square(const Tile& tile, int64_t row, int64_t slot, int64_t patch_size, const double* squares) {
  double square = 0;
  for (int64_t dy = 0; dy < patch_size; dy++) {
    const double* first = squares + dy * tile.slots + tile.slot(dy, row, slot);
    for (int64_t dx = 0; dx < patch_size; dx++) square += first[dx];
  }
  return square;
}

// weight / norm, 0 where the norm counts as zero.
template <class Sum>
Sum over_norm(double weight, double square) {
  return square >= std::numeric_limits<Sum>::min() ? static_cast<Sum>(weight / std::sqrt(square)) : Sum(0);
}

// 1 / norm of every patch of a row of a tile, 0 where no patch takes part.
template <class Sum, class Element>
void inverse_norms(const Map<Element>& map, const Tile& tile, int64_t row, const double* squares, Sum* inverse_norm) {
  for (int64_t slot = 0; slot < tile.slots; slot++) {
    const bool takes_part = tile.patch[row * tile.slots + slot] >= 0;
    inverse_norm[slot] =
        takes_part ? over_norm<Sum>(1, patch_square(tile, row, slot, map.patch_size, squares)) : Sum(0);
  }
}

// Scale and bias (metric.h) of every patch of a row of a tile: 0 and -inf where no patch takes part.
template <class Sum, class Element>
void scales_and_biases(const Map<Element>& map, const Tile& tile, int64_t row, bool is_query, const double* squares,
                       Sum* scale, Sum* bias) {
  for (int64_t slot = 0; slot < tile.slots; slot++) {
    const int64_t patch = tile.patch[row * tile.slots + slot];
    scale[slot] = 0;
    bias[slot] = -std::numeric_limits<Sum>::infinity();
    if (patch < 0) continue;
    const double square = patch_square(tile, row, slot, map.patch_size, squares);
    const double weight = map.weight ? map.weight[patch] : 1;
    bias[slot] = 0;
    switch (map.metric) {
      case Metric::kNcc:
        scale[slot] = over_norm<Sum>(weight, square);
        break;
      case Metric::kL2:
        scale[slot] = static_cast<Sum>(is_query ? 1 : 2 * weight);
        bias[slot] = static_cast<Sum>(is_query ? -square / 2 : -weight * square);
        break;
      case Metric::kDot:
        scale[slot] = static_cast<Sum>(weight);
        break;
    }
  }
}

// Where the cells of the tiles [first, end) lie, one tile after the other.
struct ChunkLayout {
  std::vector<int64_t> cells_before;             // each tile
  int64_t cells = 0, most_slots = 0;             // of all tiles; of a row
  std::vector<std::pair<size_t, int64_t>> rows;  // all cell rows: (tile, counted from `first`, and row)

  ChunkLayout(const std::vector<Outline>& tiles, size_t first, size_t end, int64_t patch_size) {
    for (size_t i = first; i < end; i++) {
      const int64_t cell_rows = tiles[i].cell_rows(patch_size);
      cells_before.push_back(cells);
      cells += cell_rows * tiles[i].slots;
      most_slots = std::max(most_slots, tiles[i].slots);
      for (int64_t row = 0; row < cell_rows; row++) rows.emplace_back(i - first, row);
    }
  }
};

// Tiles [first, end) of a map in full precision, with what turns inner products into rankings and scores.
template <class Sum>
struct PackedChunk {
  std::vector<Tile> contents;
  std::vector<PackedTile<Sum>> tiles;
  // Of each tile, [rows][slots]:
  std::vector<const Sum*> scale;  // of metric.h, 0 where no patch takes part
  std::vector<const Sum*> bias;   // the same, -inf where no patch takes part
};

// Keeps its memory from chunk to chunk.
template <class Sum>
class ChunkPacker {
 public:
  template <class Element>
  PackedChunk<Sum> pack(const Map<Element>& map, const std::vector<Outline>& tiles, size_t first, size_t end,
                        const Panel<Sum>& panel, bool is_query) {
    PackedChunk<Sum> chunk;
    chunk.contents = tiles_of(map, tiles, first, end);
    const ChunkLayout layout(tiles, first, end, map.patch_size);
    if (layout.cells * map.channels > capacity_) {
      cells_ = Buffer<Sum>();
      cells_ = Buffer<Sum>(capacity_ = layout.cells * map.channels);
    }
    squares_.resize(layout.cells);
    scale_.resize(layout.cells);
    bias_.resize(layout.cells);
    for (size_t i = 0; i < chunk.contents.size(); i++) {
      const int64_t before = layout.cells_before[i];
      chunk.tiles.push_back({.tile = &chunk.contents[i],
                             .slots = chunk.contents[i].slots,
                             .depth = {.numbers = map.channels},
                             .cells = cells_.get() + before * map.channels});
      chunk.scale.push_back(scale_.data() + before);
      chunk.bias.push_back(bias_.data() + before);
    }
    const int64_t grain = grain_size(32 * map.channels), count = layout.rows.size();
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t until) {
      for (int64_t item = begin; item < until; item++) {
        const auto [i, row] = layout.rows[item];
        const Tile& tile = chunk.contents[i];
        const int64_t at = layout.cells_before[i] + row * tile.slots;
        Sum* to = cells_.get() + at * map.channels;
        pack_row(map, tile, row, tile.slots, panel.width, to);
        std::fill_n(squares_.data() + at, tile.slots, 0.0);
        panel.add_squares(to, tile.slots, map.channels, squares_.data() + at);
      }
    });
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t until) {
      for (int64_t item = begin; item < until; item++) {
        const auto [i, row] = layout.rows[item];
        const Tile& tile = chunk.contents[i];
        if (row >= tile.rows) continue;
        const int64_t at = layout.cells_before[i] + row * tile.slots;
        scales_and_biases(map, tile, row, is_query, squares_.data() + at, scale_.data() + at, bias_.data() + at);
      }
    });
    return chunk;
  }

 private:
  int64_t capacity_ = 0;
  Buffer<Sum> cells_;
  std::vector<Sum> scale_, bias_;
  std::vector<double> squares_;  // of each packed cell
};

}  // namespace patchswap
