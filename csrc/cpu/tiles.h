// Which cells of a map are worth computing: its patches cut into tiles.
//
// A tile is a band of patch rows times some of the patch columns. Its slots are the cell columns that these patches
// cover, side by side without gaps: patch column c begins at one slot and goes on at the next p - 1. So the cost of a
// tile pair is that of its slots, and scattered patches (thin strokes, a key map with a hole) cost about what they
// number, not what their bounding box holds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "map.h"

namespace patchswap {

struct Tile {
  int64_t first_row = 0, rows = 0;    // patch rows
  int64_t slots = 0;                  // with padding, a multiple of the panel
  std::vector<int32_t> cell_column;   // of each slot that is no padding
  std::vector<int32_t> patch_column;  // [slots]: the patch column that begins at this slot, or -1
  std::vector<char> row_is_used;      // [rows]: does any of these patches take part in this row

  int64_t cell_rows(int64_t patch_size) const { return rows + patch_size - 1; }
};

struct TileLimits {
  int64_t panel;       // slots come in multiples of this
  int64_t grain;       // and cost in multiples of this
  int64_t most_slots;  // a multiple of panel
  int64_t most_rows;
};

// The cost of a band: cell rows times slots.
inline int64_t band_cost(int64_t rows, int64_t slots, int64_t patch_size) { return (rows + patch_size - 1) * slots; }

// Number of cell columns that the marked patch columns cover.
inline int64_t covered_cells(const std::vector<char>& marked, int64_t patch_size) {
  int64_t covered = 0, until = 0;  // cells before `until` are counted
  for (int64_t column = 0; column < static_cast<int64_t>(marked.size()); column++) {
    if (!marked[column]) continue;
    covered += column + patch_size - std::max(until, column);
    until = column + patch_size;
  }
  return covered;
}

// One band's tiles: its columns in order, each tile as full as the others.
template <class Element>
void cut_band(const Map<Element>& map, int64_t first_row, int64_t rows, const std::vector<char>& marked,
              const TileLimits& limits, std::vector<Tile>& tiles) {
  const int64_t overlap = map.patch_size - 1;
  const int64_t covered = covered_cells(marked, map.patch_size);
  const int64_t count = covered <= limits.most_slots ? 1 : divide_up(covered - overlap, limits.most_slots - overlap);
  const int64_t most =
      std::min(limits.most_slots, round_up(divide_up(covered - overlap, count) + overlap, limits.panel));
  const size_t before = tiles.size();
  int64_t until = -1;  // cell columns of the last tile end here; -1: there is none yet
  for (int64_t column = 0; column < map.columns; column++) {
    if (!marked[column]) continue;
    int64_t from = std::max(until, column);
    if (until < 0 || static_cast<int64_t>(tiles.back().cell_column.size()) + column + map.patch_size - from > most) {
      tiles.emplace_back();
      tiles.back().first_row = first_row;
      tiles.back().rows = rows;
      from = column;
    }
    Tile& tile = tiles.back();
    until = column + map.patch_size;
    for (; from < until; from++) tile.cell_column.push_back(static_cast<int32_t>(from));
    tile.patch_column.resize(tile.cell_column.size(), -1);
    tile.patch_column[tile.cell_column.size() - map.patch_size] = static_cast<int32_t>(column);
  }
  for (size_t i = before; i < tiles.size(); i++) {
    Tile& tile = tiles[i];
    tile.slots = round_up(tile.cell_column.size(), limits.panel);
    tile.patch_column.resize(tile.slots, -1);
    tile.row_is_used.resize(rows);
    for (int64_t row = 0; row < rows; row++) {
      tile.row_is_used[row] = std::any_of(tile.patch_column.begin(), tile.patch_column.end(), [&](int32_t column) {
        return column >= 0 && map.takes_part(first_row + row, column);
      });
    }
  }
}

// All patches that take part, in tiles. A row joins the band above it where that is cheaper than a band of its own.
template <class Element>
std::vector<Tile> cut_into_tiles(const Map<Element>& map, const TileLimits& limits) {
  std::vector<Tile> tiles;
  std::vector<char> band(map.columns), row_marks(map.columns), both(map.columns);
  int64_t first = 0, rows = 0, slots = 0;
  auto close_band = [&] {
    if (rows > 0) cut_band(map, first, rows, band, limits, tiles);
    rows = 0;
  };
  for (int64_t row = 0; row < map.rows; row++) {
    bool any = false;
    for (int64_t column = 0; column < map.columns; column++) {
      row_marks[column] = map.takes_part(row, column);
      both[column] = band[column] | row_marks[column];
      any = any || row_marks[column];
    }
    if (!any) {
      close_band();
      continue;
    }
    const int64_t row_slots = round_up(covered_cells(row_marks, map.patch_size), limits.grain);
    const int64_t both_slots = round_up(covered_cells(both, map.patch_size), limits.grain);
    if (rows > 0 && rows < limits.most_rows &&
        band_cost(rows + 1, both_slots, map.patch_size) <=
            band_cost(rows, slots, map.patch_size) + band_cost(1, row_slots, map.patch_size)) {
      rows++;
      slots = both_slots;
      band.swap(both);
    } else {
      close_band();
      first = row;
      rows = 1;
      slots = row_slots;
      band = row_marks;
    }
  }
  close_band();
  return tiles;
}

}  // namespace patchswap
