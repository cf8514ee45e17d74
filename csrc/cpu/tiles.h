// Which cells of a map are worth computing: its patches cut into tiles.
//
// A tile is a band of patch rows between two patch columns. Its slots are the cells that its patches cover, row by row,
// side by side without gaps, so that scattered patches (thin strokes, a key map with a hole) cost about what they
// number, not what their bounding box holds. The walk (kernels/walk.h) adds the keys of several rows slot by slot: in a
// key tile, all rows have the same columns. It looks queries up one by one: in a query tile, each row has its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "buffer.h"
#include "map.h"

namespace patchswap {

// Where a tile lies. A Tile has its contents; those of a whole map would fill memory.
struct Outline {
  int64_t first_row = 0, rows = 0;           // patch rows
  int64_t first_column = 0, end_column = 0;  // patch columns
  int64_t slots = 0;                         // of each cell row, with padding: a multiple of the panel
  bool rows_differ = false;                  // each row has its own columns

  int64_t cell_rows(int64_t patch_size) const { return rows + patch_size - 1; }
};

struct TileLimits {
  int64_t panel;       // slots come in multiples of this
  int64_t most_slots;  // a multiple of panel
  int64_t most_rows;
};

struct Tile {
  int64_t rows = 0, slots = 0;
  std::vector<int32_t> cells;        // [cell rows]: slots of that row that are no padding
  std::vector<int32_t> cell_column;  // [cell rows][slots]
  std::vector<int64_t> patch;        // [rows][slots]: index of the patch that begins here, or -1
  std::vector<int32_t> slot_below;   // [p - 1][rows][slots]: where that patch goes on, 1 to p - 1 rows further down
  std::vector<char> row_is_used;     // [rows]: does any patch of this row take part
  int64_t first_row = 0;

  // The slot, in cell row y + dy, of the first cell of the patch that begins at slot x of row y.
  int64_t slot(int64_t dy, int64_t y, int64_t x) const {
    return dy == 0 ? x : slot_below[((dy - 1) * rows + y) * slots + x];
  }
};

// What lies within an outline.
template <class Element>
Tile tile_of(const Map<Element>& map, const Outline& outline) {
  const int64_t cell_rows = outline.cell_rows(map.patch_size), slots = outline.slots;
  const int64_t columns = outline.end_column - outline.first_column, cell_columns = columns + map.patch_size - 1;
  Tile tile{.rows = outline.rows, .slots = slots, .first_row = outline.first_row};
  auto takes_part = [&](int64_t row, int64_t column) {
    return map.takes_part(outline.first_row + row, outline.first_column + column);
  };
  // One row of marks for all cell rows where they are to have the same columns.
  const int64_t marked_rows = outline.rows_differ ? cell_rows : 1, reach = outline.rows_differ ? map.patch_size : 1;
  std::vector<char> covered(marked_rows * cell_columns);
  for (int64_t row = 0; row < outline.rows; row++) {
    for (int64_t column = 0; column < columns; column++) {
      if (!takes_part(row, column)) continue;
      for (int64_t dy = 0; dy < reach; dy++) {
        char* from = covered.data() + (row + dy) % marked_rows * cell_columns + column;
        for (int64_t dx = 0; dx < map.patch_size; dx++) from[dx] = 1;
      }
    }
  }
  std::vector<int32_t> slot_of(cell_rows * cell_columns, -1);
  tile.cells.resize(cell_rows);
  tile.cell_column.resize(cell_rows * slots);
  for (int64_t row = 0; row < cell_rows; row++) {
    for (int64_t column = 0; column < cell_columns; column++) {
      if (!covered[row % marked_rows * cell_columns + column]) continue;
      const int32_t slot = slot_of[row * cell_columns + column] = tile.cells[row]++;
      tile.cell_column[row * slots + slot] = static_cast<int32_t>(outline.first_column + column);
    }
  }
  tile.patch.resize(outline.rows * slots, -1);
  tile.slot_below.resize((map.patch_size - 1) * outline.rows * slots);
  tile.row_is_used.resize(outline.rows);
  for (int64_t row = 0; row < outline.rows; row++) {
    for (int64_t column = 0; column < columns; column++) {
      if (!takes_part(row, column)) continue;
      const int64_t at = row * slots + slot_of[row * cell_columns + column];
      tile.patch[at] = map.index(outline.first_row + row, outline.first_column + column);
      tile.row_is_used[row] = true;
      for (int64_t dy = 1; dy < map.patch_size; dy++) {
        tile.slot_below[(dy - 1) * outline.rows * slots + at] = slot_of[(row + dy) * cell_columns + column];
      }
    }
  }
  return tile;
}

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

// Patch columns [first, end) of a band in which some row has `most` covered cells.
struct ColumnRange {
  int64_t first, end, most;
};

// Cuts the columns of a band where a row of cells would get more than `most_slots`, from the left. `marked` is
// [marked rows][columns]; each marked row covers the `reach` cell rows from its own on.
inline std::vector<ColumnRange> cut_columns(const std::vector<char>& marked, int64_t columns, int64_t reach,
                                            int64_t patch_size, int64_t most_slots) {
  const int64_t rows = marked.size() / columns;
  std::vector<ColumnRange> ranges;
  std::vector<int64_t> counted(rows + reach - 1), until(rows + reach - 1), next_count, next_until;
  bool is_open = false;
  for (int64_t column = 0; column < columns; column++) {
    for (int attempt = 0; attempt < 2; attempt++) {
      next_count = counted;
      next_until = until;
      bool any = false;
      for (int64_t row = 0; row < rows; row++) {
        if (!marked[row * columns + column]) continue;
        any = true;
        for (int64_t cell_row = row; cell_row < row + reach; cell_row++) {
          next_count[cell_row] += column + patch_size - std::max(next_until[cell_row], column);
          next_until[cell_row] = column + patch_size;
        }
      }
      if (!any) break;
      const int64_t most = *std::max_element(next_count.begin(), next_count.end());
      if (is_open && most > most_slots) {  // begin anew
        is_open = false;
        std::fill(counted.begin(), counted.end(), 0);
        std::fill(until.begin(), until.end(), 0);
        continue;
      }
      if (!is_open) ranges.push_back({column, column, 0});
      is_open = true;
      ranges.back().end = column + 1;
      ranges.back().most = most;
      counted.swap(next_count);
      until.swap(next_until);
      break;
    }
  }
  return ranges;
}

// One band's tiles: as few as the limit allows, each about as full as the others.
inline void cut_band(int64_t first_row, int64_t rows, const std::vector<char>& marked, int64_t columns,
                     bool rows_differ, int64_t patch_size, const TileLimits& limits, std::vector<Outline>& outlines) {
  const int64_t reach = rows_differ ? patch_size : 1;
  std::vector<ColumnRange> ranges = cut_columns(marked, columns, reach, patch_size, limits.most_slots);
  if (ranges.size() > 1) {
    int64_t all = 0;
    for (const ColumnRange& range : ranges) all += range.most;
    const int64_t even = round_up(divide_up(all, ranges.size()), limits.panel);
    for (int64_t most = even; most < limits.most_slots; most += limits.panel) {
      const std::vector<ColumnRange> evener = cut_columns(marked, columns, reach, patch_size, most);
      if (evener.size() > ranges.size()) continue;
      ranges = evener;
      break;
    }
  }
  for (const ColumnRange& range : ranges) {
    outlines.push_back({.first_row = first_row,
                        .rows = rows,
                        .first_column = range.first,
                        .end_column = range.end,
                        .slots = round_up(range.most, limits.panel),
                        .rows_differ = rows_differ});
  }
}

// All patches of a map, each row with its own columns. Rows that have cells in common are cut only where there are more
// than `most_rows`.
template <class Element>
std::vector<Outline> cut_compactly(const Map<Element>& map, const TileLimits& limits) {
  std::vector<char> is_used(map.rows);
  for (int64_t row = 0; row < map.rows; row++) {
    for (int64_t column = 0; column < map.columns && !is_used[row]; column++)
      is_used[row] = map.takes_part(row, column);
  }
  std::vector<Outline> outlines;
  for (int64_t first = 0, end; first < map.rows; first = end) {
    end = first + 1;
    if (!is_used[first]) continue;
    int64_t last = first;
    for (; end < map.rows && end - last < map.patch_size; end++) {
      if (is_used[end]) last = end;
    }
    end = last + 1;
    const int64_t height = divide_up(end - first, divide_up(end - first, limits.most_rows));
    for (int64_t row = first; row < end; row += height) {
      const int64_t rows = std::min(height, end - row);
      std::vector<char> marked(rows * map.columns);
      for (int64_t i = 0; i < rows * map.columns; i++) {
        marked[i] = map.takes_part(row + i / map.columns, i % map.columns);
      }
      cut_band(row, rows, marked, map.columns, true, map.patch_size, limits, outlines);
    }
  }
  return outlines;
}

// All patches of a map, the rows of a tile with the same columns. Rows are cut into bands of at most `most_rows` so
// that cell rows times slots are as few as possible.
template <class Element>
std::vector<Outline> cut_evenly(const Map<Element>& map, const TileLimits& limits) {
  std::vector<char> marked(map.columns);
  auto mark_row = [&](int64_t row) {
    for (int64_t column = 0; column < map.columns; column++) marked[column] |= map.takes_part(row, column);
  };
  std::vector<int64_t> cost(map.rows + 1), best_end(map.rows);  // of all rows from this one on
  for (int64_t first = map.rows - 1; first >= 0; first--) {
    std::fill(marked.begin(), marked.end(), 0);
    mark_row(first);
    cost[first] = cost[first + 1];
    best_end[first] = first + 1;
    const bool is_empty = covered_cells(marked, map.patch_size) == 0;
    for (int64_t end = first + 1; !is_empty && end <= std::min(map.rows, first + limits.most_rows); end++) {
      if (end > first + 1) mark_row(end - 1);
      const int64_t slots = round_up(covered_cells(marked, map.patch_size), limits.panel);
      const int64_t total = (end - first + map.patch_size - 1) * slots + cost[end];
      if (end == first + 1 || total < cost[first]) {
        cost[first] = total;
        best_end[first] = end;
      }
    }
  }
  std::vector<Outline> outlines;
  for (int64_t first = 0; first < map.rows; first = best_end[first]) {
    std::fill(marked.begin(), marked.end(), 0);
    for (int64_t row = first; row < best_end[first]; row++) mark_row(row);
    cut_band(first, best_end[first] - first, marked, map.columns, false, map.patch_size, limits, outlines);
  }
  return outlines;
}

}  // namespace patchswap
