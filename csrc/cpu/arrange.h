// Maps laid out for the walk, which is fast along long rows. Indices of patches stay the caller's, and with them the
// order of ties.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "buffer.h"
#include "map.h"

namespace patchswap {

// Rows and columns exchanged.
template <class Element>
Map<Element> transposed(Map<Element> map) {
  std::swap(map.height, map.width);
  std::swap(map.row_stride, map.column_stride);
  std::swap(map.rows, map.columns);
  std::swap(map.index_row_stride, map.index_column_stride);
  return map;
}

// For patches of one cell, which may lie in any order: all cells as rows of a length that suits tiles, where their
// strides and number allow; else as one row.
template <class Element>
Map<Element> with_long_rows(Map<Element> map) {
  constexpr int64_t kLongest = 256, kShortest = 48, kRegister = 16;
  if (map.width == 1) map = transposed(map);
  if (map.width >= kShortest && map.width <= kLongest) return map;
  if (map.height > 1 && (map.row_stride != map.width * map.column_stride ||
                         map.index_row_stride != map.columns * map.index_column_stride)) {
    return map;
  }
  const int64_t cells = map.height * map.width;
  if (cells == 0) return map;
  int64_t length = cells;
  for (int64_t multiple : {kRegister, int64_t{1}}) {
    for (int64_t tried = 128; length == cells && tried >= kShortest; tried -= multiple) {
      if (cells % tried == 0) length = tried;
    }
  }
  map.rows = map.height = cells / length;
  map.columns = map.width = length;
  map.row_stride = length * map.column_stride;
  map.index_row_stride = length * map.index_column_stride;
  return map;
}

// What the walk costs, in multiply-adds per channel: query cells are multiplied a few at a time, keys in whole
// registers.
template <class Element>
double walk_cost(const Map<Element>& query, const Map<Element>& key) {
  constexpr int64_t kRegister = 16, kStart = 6;
  return static_cast<double>(query.height) * (query.width + kStart) * key.height * round_up(key.width, kRegister);
}

// The two maps of a match in the layout that is cheaper to walk. Rows and columns of patches of several cells are
// exchanged in both maps or in none, as their cells must correspond.
template <class Element>
std::pair<Map<Element>, Map<Element>> arrange(const Map<Element>& query, const Map<Element>& key) {
  constexpr double kWorthwhile = 0.8;
  if (query.patch_size == 1) {
    auto arranged = [](const Map<Element>& map) {
      const Map<Element> rows = with_long_rows(map);
      constexpr int64_t kNarrow = 48;
      return rows.width < kNarrow && rows.height > rows.width ? transposed(rows) : rows;
    };
    return {arranged(query), arranged(key)};
  }
  const Map<Element> turned_query = transposed(query), turned_key = transposed(key);
  if (walk_cost(turned_query, turned_key) < kWorthwhile * walk_cost(query, key)) return {turned_query, turned_key};
  return {query, key};
}

}  // namespace patchswap
