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
inline double walk_cost(int64_t query_height, int64_t query_width, int64_t key_height, int64_t key_width) {
  constexpr int64_t kRegister = 16, kStart = 6;
  return static_cast<double>(query_height) * (query_width + kStart) * key_height * round_up(key_width, kRegister);
}

// The two maps of a match in the layout that is cheaper to walk. Rows and columns of patches of several cells are
// exchanged in both maps or in none, as their cells must correspond. Exchanged, the cells of a patch are summed in
// another order. So the rows of the whole map decide where key is a part of one.
template <class Element>
std::pair<Map<Element>, Map<Element>> arrange(const Map<Element>& query, const Map<Element>& key,
                                              int64_t whole_height) {
  constexpr double kWorthwhile = 0.8;
  if (query.patch_size == 1) {
    auto arranged = [](const Map<Element>& map) {
      const Map<Element> rows = with_long_rows(map);
      constexpr int64_t kNarrow = 48;
      return rows.width < kNarrow && rows.height > rows.width ? transposed(rows) : rows;
    };
    return {arranged(query), arranged(key)};
  }
  const double cost = walk_cost(query.height, query.width, whole_height, key.width);
  const double turned_cost = walk_cost(query.width, query.height, key.width, whole_height);
  if (turned_cost < kWorthwhile * cost) return {transposed(query), transposed(key)};
  return {query, key};
}

}  // namespace patchswap
