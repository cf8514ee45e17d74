// The walk of match: along a diagonal of (query row, key row) pairs.
//
// With c(i, j) = <query cell i, key cell j> over the C channels, the score of query patch (y, x) and key patch
// (v, u) is
//     sum over dy, dx of c((y + dy, x + dx), (v + dy, u + dx)).
// One step computes the block c for all slots of one query row and one key row, sums it along its diagonals for dx, and
// keeps the last p such row blocks: their sum over dy is the score of a whole row of patch pairs. As y - v stays
// constant along the walk, every block is computed once and used p times.
//
// Each c is one chain of multiply-adds over the channels, each score adds its p * p terms in one fixed order, and tiles
// are padded to whole vectors: equal patches get equal scores bit for bit, wherever they lie and whoever computes them.

// The walk over any kind of products. multiply() keeps the results of up to three query panels, of kQueryPanel cells
// each, times two registers of key cells.
template <class Products>
struct Walk : Products {
  using Sum = typename Products::Number;
  using Products::at;
  using Products::kLanes;
  using Products::load;
  using typename Products::Vector;

  // multiply() of the last 1 to Rows cells of a row; an odd number is made even with a cell of the padding.
  template <int Rows, int Columns>
  static void multiply_rest(int64_t rows, const Sum* query, const Sum* key, CellDepth depth, Sum* result,
                            int64_t stride) {
    if constexpr (Rows > 2) {
      if (rows <= Rows - 2) return multiply_rest<Rows - 2, Columns>(rows, query, key, depth, result, stride);
    }
    Products::template multiply<Rows, Columns>(query, key, depth, result, stride);
  }

  template <int Columns>
  static void multiply_rows(const Sum* query, int64_t query_cells, const Sum* key, CellDepth depth, Sum* result,
                            int64_t stride) {
    constexpr int64_t kRows = 3 * kQueryPanel;
    int64_t i = 0;
    for (; i + kRows <= query_cells; i += kRows) {
      Products::template multiply<kRows, Columns>(query + i * depth.numbers, key, depth, result + i * stride, stride);
    }
    if (i < query_cells) {
      multiply_rest<kRows, Columns>(query_cells - i, query + i * depth.numbers, key, depth, result + i * stride,
                                    stride);
    }
  }

  // Row blocks of one pair of cell rows, summed over dx into `summed`.
  template <int P>
  static void correlate_rows(const PackedTile<Sum>& query, int64_t query_cell_row, const PackedTile<Sum>& key,
                             int64_t key_cell_row, const WalkBuffers<Sum>& buffers, Sum* summed) {
    const int64_t stride = buffers.stride, query_cells = query.tile->cells[query_cell_row];
    const Sum *query_row = query.row_cells(query_cell_row), *key_row = key.row_cells(key_cell_row);
    Sum* block = P == 1 ? summed : buffers.block;
    int64_t j = 0;
    for (; j + 2 * kLanes <= key.slots; j += 2 * kLanes) {
      multiply_rows<2>(query_row, query_cells, key_row + j * key.depth.numbers, key.depth, block + j, stride);
    }
    if (j < key.slots)
      multiply_rows<1>(query_row, query_cells, key_row + j * key.depth.numbers, key.depth, block + j, stride);
    if (P == 1) return;
    for (int64_t x = 0; x + P <= query_cells; x++) {
      const Sum* from = block + x * stride;
      for (int64_t u = 0; u < key.slots; u += kLanes) {
        Vector total = load(from + u);
#pragma GCC unroll 8
        for (int dx = 1; dx < P; dx++) total += load(from + dx * (stride + 1) + u);
        at(summed + x * stride + u) = total;
      }
    }
  }

  // Calls visitor.visit(query row, slot, key row, summed) for all pairs of patch rows of the two tiles with
  // query row - key row = difference and all slots that visitor.wants(query row, slot). summed[dy] points to the row of
  // sums whose total over dy is the inner product of that query with the keys of that row.
  template <int P, class Visitor>
  static void diagonal(const PackedTile<Sum>& query, const PackedTile<Sum>& key, int64_t difference,
                       const WalkBuffers<Sum>& buffers, Visitor& visitor) {
    int64_t computed_until = 0;  // the ring holds the blocks of the last P query cell rows before this one
    for (int64_t y = difference > 0 ? difference : 0; y < query.tile->rows && y - difference < key.tile->rows; y++) {
      const int64_t v = y - difference;
      if (!query.tile->row_is_used[y] || !key.tile->row_is_used[v]) continue;
      for (int64_t row = y > computed_until ? y : computed_until; row < y + P; row++) {
        correlate_rows<P>(query, row, key, row - difference, buffers, buffers.summed + row % P * buffers.block_size);
      }
      computed_until = y + P;
      for (int64_t x = 0; x < query.slots; x++) {
        if (!visitor.wants(y, x)) continue;
        const Sum* summed[P];
        for (int dy = 0; dy < P; dy++) {
          summed[dy] = buffers.summed + (y + dy) % P * buffers.block_size + query.tile->slot(dy, y, x) * buffers.stride;
        }
        visitor.visit(y, x, v, summed);
      }
    }
  }
};
