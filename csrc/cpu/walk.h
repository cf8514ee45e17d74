// The inner loops of match on the CPU: one walk along a diagonal of (query row, key row) pairs.
//
// With c(i, j) = <query cell i, key cell j> over the C channels, the score of query patch (y, x) and key patch
// (v, u) is
//     sum over dy, dx of c((y + dy, x + dx), (v + dy, u + dx)).
// One step computes the block c for all cells of one query row and one key row, sums it along its diagonals for dx, and
// keeps the last p such row blocks: their sum over dy is the score of a whole row of patch pairs. As y - v stays
// constant along the walk, every block is computed once and used p times.
//
// Each c is one chain of multiply-adds over the channels, each score adds its p * p terms in one fixed order, and tiles
// are padded to whole vectors: equal patches get equal scores bit for bit, wherever they lie and whoever computes them.
#pragma once

#include <cstdint>
#include <limits>

namespace patchswap {

#define PATCHSWAP_INLINE inline __attribute__((always_inline))

// One map of one sample, cut into tiles of columns, each cell row of a tile packed for multiply() below: panels of
// `panel_width` neighbouring cells, channel after channel. Tiles overlap by p - 1 cells, so that each patch lies in
// one.
template <class Sum>
struct PackedMap {
  int64_t rows = 0;     // patch rows
  int64_t columns = 0;  // patch columns
  int64_t tiles = 0;
  int64_t first_column = 0;  // first patch column of tile 0
  int64_t tile_columns = 0;  // patch columns of a tile
  int64_t panel_width = 0;   // cells of a panel
  int64_t padded_width = 0;  // cells of a tile, a multiple of panel_width
  int64_t channels = 0;
  const Sum* cells = nullptr;         // [tiles][cell rows][padded_width / panel_width][channels][panel_width]
  const bool* row_is_used = nullptr;  // [tiles][rows]: does any patch of this row and tile take part

  int64_t cell_rows = 0;
  const Sum* row_cells(int64_t tile, int64_t row) const {
    return cells + (tile * cell_rows + row) * padded_width * channels;
  }
};

// What a candidate key is compared with: `topk` scores and indices for each query patch, best first.
template <class Sum>
struct Best {
  int64_t topk = 0;
  Sum* score = nullptr;      // [queries][topk], -inf at first
  int64_t* index = nullptr;  // [queries][topk], -1 at first

  // A higher score goes first; of equal scores, the lower index. A total order: the order of offers does not matter.
  static bool goes_before(Sum score, int64_t index, Sum other_score, int64_t other_index) {
    return score > other_score || (score == other_score && index < other_index);
  }

  void offer(int64_t query, Sum new_score, int64_t new_index) {
    Sum* scores = score + query * topk;
    int64_t* indices = index + query * topk;
    int64_t rank = topk;
    while (rank > 0 && goes_before(new_score, new_index, scores[rank - 1], indices[rank - 1])) rank--;
    if (rank == topk) return;
    for (int64_t i = topk - 1; i > rank; i--) {
      scores[i] = scores[i - 1];
      indices[i] = indices[i - 1];
    }
    scores[rank] = new_score;
    indices[rank] = new_index;
  }

  Sum worst(int64_t query) const { return score[query * topk + topk - 1]; }
};

// Read-only description of the match of one sample.
template <class Sum>
struct SampleMatch {
  PackedMap<Sum> query, key;
  const bool* query_is_used = nullptr;  // [query rows][query columns]
  const Sum* key_scale = nullptr;       // [tiles][key rows][padded_width]: 1 / norm, 0 for zero norm and invalid keys
  const Sum* key_bias = nullptr;        // same shape: 0, or -inf for invalid keys and padding
};

// A thread's blocks. Rows have `stride` numbers, of which those beyond the key tile's padded width stay 0.
template <class Sum>
struct WalkBuffers {
  int64_t stride = 0;
  Sum* block = nullptr;    // [query tile's padded width][stride]: c of one pair of rows
  Sum* summed = nullptr;   // [p][query tile columns][stride]: the last p blocks, each summed over dx
  Sum* ranking = nullptr;  // [stride]: <q, k> / |k| of one query with a row of keys
};

// `VectorBytes` is the width of a SIMD register; multiply() works on Rows x (Vectors registers) of results at a time.
template <class Sum, int VectorBytes, int Rows, int Vectors>
struct Walk {
  static constexpr int kLanes = VectorBytes / sizeof(Sum);
  static constexpr int kColumns = Vectors * kLanes;
  typedef Sum Vector __attribute__((vector_size(VectorBytes)));

  // The register-wide numbers at any address, by reference: vectors wider than the baseline must not be passed by
  // value.
  typedef Sum Unaligned __attribute__((vector_size(VectorBytes), aligned(alignof(Sum)), may_alias));
  static PATCHSWAP_INLINE const Unaligned& load(const Sum* from) { return *reinterpret_cast<const Unaligned*>(from); }
  static PATCHSWAP_INLINE Unaligned& at(Sum* to) { return *reinterpret_cast<Unaligned*>(to); }

  // result[i][j] = sum over channels of query[channel][i] * key[channel][j], for Rows x kColumns cells.
  static PATCHSWAP_INLINE void multiply(const Sum* query, const Sum* key, int64_t channels, Sum* result,
                                        int64_t stride) {
    Vector sum[Rows][Vectors] = {};
    for (int64_t channel = 0; channel < channels; channel++, query += Rows, key += kColumns) {
      Vector right[Vectors];
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; j++) right[j] = load(key + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < Vectors; j++) sum[i][j] += query[i] * right[j];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; j++) at(result + i * stride + j * kLanes) = sum[i][j];
    }
  }

  // Row blocks of one pair of cell rows, summed over dx into `summed`.
  template <int P>
  static PATCHSWAP_INLINE void correlate_rows(const SampleMatch<Sum>& match, const Sum* query, const Sum* key,
                                              const WalkBuffers<Sum>& buffers, Sum* summed) {
    const int64_t channels = match.key.channels, stride = buffers.stride;
    for (int64_t j = 0; j < match.key.padded_width; j += kColumns) {
      for (int64_t i = 0; i < match.query.padded_width; i += Rows) {
        multiply(query + i * channels, key + j * channels, channels, buffers.block + i * stride + j, stride);
      }
    }
    for (int64_t x = 0; x < match.query.tile_columns; x++) {
      const Sum* from = buffers.block + x * stride;
      for (int64_t u = 0; u < match.key.padded_width; u += kLanes) {
        Vector total = load(from + u);
#pragma GCC unroll 8
        for (int dx = 1; dx < P; dx++) total += load(from + dx * (stride + 1) + u);
        at(summed + x * stride + u) = total;
      }
    }
  }

  // The highest ranking of one query with the keys of one row; all rankings go to buffers.ranking.
  template <int P>
  static PATCHSWAP_INLINE Sum rank_keys(const Sum* const (&summed)[P], const Sum* scale, const Sum* bias, int64_t width,
                                        Sum* ranking) {
    Vector highest = Vector{} - std::numeric_limits<Sum>::infinity();
    for (int64_t u = 0; u < width; u += kLanes) {
      Vector total = load(summed[0] + u);
#pragma GCC unroll 8
      for (int dy = 1; dy < P; dy++) total += load(summed[dy] + u);
      total = total * load(scale + u) + load(bias + u);
      at(ranking + u) = total;
      highest = total > highest ? total : highest;
    }
    Sum best = highest[0];
    for (int lane = 1; lane < kLanes; lane++) best = highest[lane] > best ? highest[lane] : best;
    return best;
  }

  // All pairs of patch rows (y, v) with y - v = difference, for one tile of the query and one of the key.
  template <int P>
  static PATCHSWAP_INLINE void diagonal(const SampleMatch<Sum>& match, int64_t query_tile, int64_t key_tile,
                                        int64_t difference, const WalkBuffers<Sum>& buffers, Best<Sum>& best) {
    const PackedMap<Sum>&query = match.query, &key = match.key;
    const int64_t block_size = query.tile_columns * buffers.stride;
    const int64_t first_x = query.first_column + query_tile * query.tile_columns;
    const int64_t first_u = key.first_column + key_tile * key.tile_columns;
    const int64_t end_x = first_x + query.tile_columns < query.columns ? first_x + query.tile_columns : query.columns;
    int64_t computed_until = 0;  // the ring holds the blocks of the last P query cell rows before this one
    for (int64_t y = difference > 0 ? difference : 0; y < query.rows && y - difference < key.rows; y++) {
      const int64_t v = y - difference;
      if (!query.row_is_used[query_tile * query.rows + y] || !key.row_is_used[key_tile * key.rows + v]) continue;
      for (int64_t row = y > computed_until ? y : computed_until; row < y + P; row++) {
        correlate_rows<P>(match, query.row_cells(query_tile, row), key.row_cells(key_tile, row - difference), buffers,
                          buffers.summed + row % P * block_size);
      }
      computed_until = y + P;

      const Sum* scale = match.key_scale + (key_tile * key.rows + v) * key.padded_width;
      const Sum* bias = match.key_bias + (key_tile * key.rows + v) * key.padded_width;
      for (int64_t x = first_x; x < end_x; x++) {
        const int64_t patch = y * query.columns + x;
        if (!match.query_is_used[patch]) continue;
        const Sum* summed[P];
        for (int dy = 0; dy < P; dy++) {
          summed[dy] = buffers.summed + (y + dy) % P * block_size + (x - first_x) * buffers.stride;
        }
        const Sum highest = rank_keys<P>(summed, scale, bias, key.padded_width, buffers.ranking);
        // Equal to the worst kept score may still win by a lower index, which offer() decides.
        if (highest < best.worst(patch) || highest == -std::numeric_limits<Sum>::infinity()) continue;
        for (int64_t u = 0; u < key.padded_width; u++) {
          const Sum ranking = buffers.ranking[u];
          if (ranking >= best.worst(patch) && ranking != -std::numeric_limits<Sum>::infinity()) {
            best.offer(patch, ranking, v * key.columns + first_u + u);
          }
        }
      }
    }
  }
};

}  // namespace patchswap
