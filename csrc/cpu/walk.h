// The inner loops of match on the CPU: one walk along a diagonal of (query row, key row) pairs.
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
#pragma once

#include <cstdint>
#include <limits>

#include "best.h"
#include "pack.h"

namespace patchswap {

#define PATCHSWAP_INLINE inline __attribute__((always_inline))

// A thread's blocks. Rows have `stride` numbers; those beyond the key tile's slots are read but mean nothing.
template <class Sum>
struct WalkBuffers {
  int64_t stride = 0, block_size = 0;
  Sum* block = nullptr;   // [query slots][stride]: c of one pair of rows
  Sum* summed = nullptr;  // [p][query slots][stride]: the last p blocks, each summed over dx

  static int64_t numbers(int64_t query_slots, int64_t key_slots, int64_t patch_size) {
    return query_slots * (key_slots + 16) * (patch_size + 1);
  }
  WalkBuffers(Sum* memory, int64_t query_slots, int64_t key_slots)
      : stride(key_slots + 16), block_size(query_slots * stride), block(memory), summed(memory + block_size) {}
};

// One thread's share of the dense search: a pair of tiles.
template <class Sum>
struct DenseTask {
  PackedTile<Sum> query, key;
  const Sum* query_bias;            // [query rows][query slots]: 0 where the patch is a query, else -inf
  const Sum *key_scale, *key_bias;  // [key rows][key slots]
  WalkBuffers<Sum> buffers;
  Sum* ranking;    // [key slots]: <q, k> / |k| of one query with a row of keys
  Best<Sum> best;  // queries count [rows][slots] of the query tile
};

// Registers of `VectorBytes` full of numbers, at any address. References, as vectors wider than the baseline must not
// be passed by value.
template <class Number, int VectorBytes>
struct Registers {
  static constexpr int kLanes = VectorBytes / sizeof(Number);
#ifdef __FP_FAST_FMAF
  static constexpr bool kHasFma = true;
#else
  static constexpr bool kHasFma = VectorBytes > 16;  // AVX2 and AVX-512 code comes with FMA
#endif
  typedef Number Vector __attribute__((vector_size(VectorBytes)));
  typedef Number Unaligned __attribute__((vector_size(VectorBytes), aligned(alignof(Number)), may_alias));

  static PATCHSWAP_INLINE const Unaligned& load(const Number* from) {
    return *reinterpret_cast<const Unaligned*>(from);
  }
  static PATCHSWAP_INLINE Unaligned& at(Number* to) { return *reinterpret_cast<Unaligned*>(to); }

  // Whether any bit of the vector is set.
  static PATCHSWAP_INLINE bool any(const Vector& vector) {
    uint64_t part[VectorBytes / 8], all = 0;
    __builtin_memcpy(part, &vector, VectorBytes);
    for (const uint64_t bits : part) all |= bits;
    return all != 0;
  }
};

// The products of a walk in full precision: a chain of multiply-adds for each pair of cells.
template <class Sum, int VectorBytes, int QueryPanel>
struct FullProducts : Registers<Sum, VectorBytes> {
  using Number = Sum;
  using Base = Registers<Sum, VectorBytes>;
  using Base::kLanes;
  using typename Base::Vector;
  static constexpr int kQueryPanel = QueryPanel;

  // result[i][j] = sum over channels of query[i][channel] * key[j][channel], for Rows query cells and Columns panels of
  // key cells.
  template <int Rows, int Columns>
  static PATCHSWAP_INLINE void multiply(const Sum* query, const Sum* key, CellDepth depth, Sum* result,
                                        int64_t stride) {
    Vector sum[Rows][Columns] = {};
    const int64_t query_step = depth.numbers * QueryPanel, key_step = depth.numbers * kLanes;
    for (int64_t channel = 0; channel < depth.numbers; channel++, query += QueryPanel, key += kLanes) {
      Vector right[Columns];
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) right[j] = Base::load(key + j * key_step);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < Columns; j++) sum[i][j] += query[i / QueryPanel * query_step + i % QueryPanel] * right[j];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) Base::at(result + i * stride + j * kLanes) = sum[i][j];
    }
  }
};

// The walk over any kind of products. A panel is a third of the query cells of a register block, or one key vector:
// multiply() works on up to three query panels times two key panels of results at a time.
template <class Products>
struct Walk : Products {
  using Sum = typename Products::Number;
  using Products::at;
  using Products::kLanes;
  using Products::load;
  using typename Products::Vector;
  static constexpr int kQueryPanel = Products::kQueryPanel;

  // multiply() of the last 1 to Rows cells of a row; an odd number is made even with a cell of the padding.
  template <int Rows, int Columns>
  static PATCHSWAP_INLINE void multiply_rest(int64_t rows, const Sum* query, const Sum* key, CellDepth depth,
                                             Sum* result, int64_t stride) {
    if constexpr (Rows > 2) {
      if (rows <= Rows - 2) return multiply_rest<Rows - 2, Columns>(rows, query, key, depth, result, stride);
    }
    Products::template multiply<Rows, Columns>(query, key, depth, result, stride);
  }

  template <int Columns>
  static PATCHSWAP_INLINE void multiply_rows(const Sum* query, int64_t query_cells, const Sum* key, CellDepth depth,
                                             Sum* result, int64_t stride) {
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
  static PATCHSWAP_INLINE void correlate_rows(const PackedTile<Sum>& query, int64_t query_cell_row,
                                              const PackedTile<Sum>& key, int64_t key_cell_row,
                                              const WalkBuffers<Sum>& buffers, Sum* summed) {
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
  static PATCHSWAP_INLINE void diagonal(const PackedTile<Sum>& query, const PackedTile<Sum>& key, int64_t difference,
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

// Adds the squares of each slot's numbers, of a packed row in panels of Width.
template <class Sum, int Width>
PATCHSWAP_INLINE void add_squares(const Sum* row, int64_t slots, int64_t channels, double* squares) {
  for (int64_t slot = 0; slot < slots; slot += Width, squares += Width) {
    double sum[Width] = {};
    for (int64_t channel = 0; channel < channels; channel++, row += Width) {
      for (int i = 0; i < Width; i++) sum[i] += static_cast<double>(row[i]) * row[i];
    }
    for (int i = 0; i < Width; i++) squares[i] += sum[i];
  }
}

// All products of `rows` packed rows with `columns` packed ones, a multiple of the lanes, as numbers of one depth.
template <class Walk, class Number>
PATCHSWAP_INLINE void multiply_panels(const Number* left, int64_t rows, const Number* right, int64_t columns,
                                      int64_t depth, Number* result, int64_t stride) {
  constexpr int64_t kLanes = Walk::kLanes;
  int64_t j = 0;
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    Walk::template multiply_rows<2>(left, rows, right + j * depth, {.numbers = depth}, result + j, stride);
  }
  if (j < columns)
    Walk::template multiply_rows<1>(left, rows, right + j * depth, {.numbers = depth}, result + j, stride);
}

// Visits a diagonal and offers each query its best keys by <q, k> / |k|.
template <class Walk, class Sum, int P>
struct DenseVisitor {
  using Vector = typename Walk::Vector;
  static constexpr int kLanes = Walk::kLanes;
  static constexpr Sum kNone = -std::numeric_limits<Sum>::infinity();

  const DenseTask<Sum>& task;

  PATCHSWAP_INLINE bool wants(int64_t y, int64_t x) const { return task.query_bias[y * task.query.slots + x] == 0; }

  PATCHSWAP_INLINE void visit(int64_t y, int64_t x, int64_t v, const Sum* const (&summed)[P]) const {
    const int64_t slots = task.key.slots, query = y * task.query.slots + x;
    const Sum *scale = task.key_scale + v * slots, *bias = task.key_bias + v * slots;
    Sum* ranking = task.ranking;
    Vector highest = Vector{} + kNone;
    for (int64_t u = 0; u < slots; u += kLanes) {
      Vector total = Walk::load(summed[0] + u);
#pragma GCC unroll 8
      for (int dy = 1; dy < P; dy++) total += Walk::load(summed[dy] + u);
      total = total * Walk::load(scale + u) + Walk::load(bias + u);
      Walk::at(ranking + u) = total;
      highest = total > highest ? total : highest;
    }
    Sum best = highest[0];
    for (int lane = 1; lane < kLanes; lane++) best = highest[lane] > best ? highest[lane] : best;
    // Equal to the worst kept score may still win by a lower index, which offer() decides.
    if (best < task.best.worst(query) || best == kNone) return;
    for (int64_t u = 0; u < slots; u++) {
      if (ranking[u] >= task.best.worst(query) && ranking[u] != kNone) {
        task.best.offer(query, ranking[u], task.key.tile->patch[v * slots + u]);
      }
    }
  }
};

}  // namespace patchswap
