// Coarse cells: a few whole numbers for each cell, whose inner products are exact and cheap, and a bound on how far
// these are from the true ones. docs/kernels.md has the proof.
//
// A cell x has the coordinates a = V x along the axes of basis.h. In steps of size `step` they are rounded: the leading
// ones to an eighth of a step in 16 bits, the trailing ones to a step in 8 bits. With h and l these numbers,
//     coarse(x, y) = floor(<h_x, h_y> / 64) + <l_x, l_y>.
// Where eight bits multiply no faster than sixteen, the walk takes the leading numbers only; the trailing ones are kept
// apart, for the pairs of patches that the leading ones do not rule out.
// What is lost: e = a - rounded a, for the leading and the trailing axes, and r = x minus its part along the axes.
// Stacked over the p * p cells of a patch, with E and A the norms of the errors and of the rounded coordinates, N the
// patch's norm and R that of what lies off the axes, all in steps, for a query patch and a key patch
//     | <query, key> / (step step') - coarse | <= w w',
//     w^2 = (E_h X_h)^2 + (A_h / X_h)^2 + (E_l X_l)^2 + (A_l / X_l)^2 + R^2 + eta N^2 + p^2
// for any X_h, X_l; eta covers rounding in float32, here and in the full-precision score. Of the leading numbers alone
// the same holds without E_l and A_l, where R is the norm of what lies off the leading axes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "basis.h"
#include "walk.h"

namespace patchswap {

constexpr int64_t kKeptTogether = 32;  // numbers kept apart come in multiples of this
constexpr int kLeadingShift = 3;       // leading coordinates are this many bits finer than trailing ones
constexpr float kMostLeading = 32767, kMostTrailing = 127;
constexpr float kMostLeadingSquare = 2.1e9f;  // of a cell, so that products of leading numbers stay below 2^31

// What both maps' coarse cells have in common.
struct CoarseScheme {
  Basis basis;
  int64_t pairs = 0, quads = 0;              // words of two leading, of four trailing numbers
  int64_t kept_apart = 0;                    // trailing numbers outside the words, with zeros up to whole registers
  double leading_balance, trailing_balance;  // X_h^2 and X_l^2
  double coordinate_rounding;                // the error of a computed coordinate vector, relative to the cell's norm
  double score_rounding;                     // eta

  CellDepth depth() const { return {.numbers = pairs + 1 + quads, .leading = pairs}; }
};

// A cell's sums of squares that patches are bounded with, in steps.
struct CoarseErrors {
  float leading_error, leading_size, trailing_error, trailing_size, off_leading, off_axis;
};

// What a machine multiplies whole numbers with: nothing special; pairs of 16 bits and an addition (SSE2, AVX2,
// AVX-512); or pairs of 16 and quads of 8 bits, added up at once (VNNI).
enum class WholeNumbers { kPlain, kPairs, kPairsAndQuads };

// A key's word holds its trailing numbers plus 128, unsigned; `correction` of the query takes that off again.
template <int VectorBytes, int QueryPanel, WholeNumbers Instructions>
struct CoarseProducts : Registers<int32_t, VectorBytes> {
  using Number = int32_t;
  using Base = Registers<int32_t, VectorBytes>;
  using Base::kLanes;
  using typename Base::Vector;
  static constexpr int kQueryPanel = QueryPanel;
  static constexpr bool kTakesQuads = Instructions == WholeNumbers::kPairsAndQuads;  // else they are kept apart

  // sum + the inner products of two leading numbers of a query with two of a key, in each lane.
  static PATCHSWAP_INLINE void add_pairs(Vector& sum, const Vector& query, const Vector& key) {
#if defined(__x86_64__)
    if constexpr (Instructions == WholeNumbers::kPairsAndQuads && VectorBytes > 16) {
      Vector total = sum;  // a register, which an element of an array would not become
      asm("vpdpwssd %2, %1, %0" : "+v"(total) : "v"(key), "v"(query));
      sum = total;
      return;
    } else if constexpr (Instructions == WholeNumbers::kPairs && VectorBytes > 16) {
      Vector products;
      asm("vpmaddwd %2, %1, %0" : "=v"(products) : "v"(key), "v"(query));
      sum += products;
      return;
    } else if constexpr (Instructions == WholeNumbers::kPairs) {
      Vector products = query;
      asm("pmaddwd %1, %0" : "+x"(products) : "x"(key));
      sum += products;
      return;
    }
#endif
    sum += ((query << 16) >> 16) * ((key << 16) >> 16) + (query >> 16) * (key >> 16);
  }

  // sum + the inner products of the query's four trailing numbers with each key's unsigned ones.
  static PATCHSWAP_INLINE void add_quads(Vector& sum, int32_t query, const Vector& key) {
#if defined(__x86_64__)
    if constexpr (Instructions == WholeNumbers::kPairsAndQuads && VectorBytes > 16) {
      Vector total = sum;  // a register, which an element of an array would not become
      asm("vpdpbusd %2, %1, %0" : "+v"(total) : "v"(key), "v"(Vector{} + query));
      sum = total;
      return;
    }
#endif
#pragma GCC unroll 4
    for (int byte = 0; byte < 4; byte++) sum += static_cast<int8_t>(query >> 8 * byte) * ((key >> 8 * byte) & 255);
  }

  // The inner product of `count` bytes, a multiple of kKeptTogether.
  static PATCHSWAP_INLINE int32_t product_of_bytes(const int8_t* left, const int8_t* right, int64_t count) {
    using Bytes = Registers<int8_t, VectorBytes / 2>;
    using Halves = Registers<int16_t, VectorBytes>::Vector;
    auto widen = [](const int8_t* from, Vector& to) __attribute__((always_inline)) {
#if defined(__x86_64__)
      if constexpr (VectorBytes > 16) {  // for which the compiler would take a detour
        asm("vpmovsxbw %1, %0" : "=v"(to) : "m"(Bytes::load(from)));
        return;
      }
#endif
      reinterpret_cast<Halves&>(to) = __builtin_convertvector(Bytes::load(from), Halves);
    };
    Vector sum = {};
    for (int64_t i = 0; i < count; i += Bytes::kLanes) {
      Vector a, b;
      widen(left + i, a);
      widen(right + i, b);
      add_pairs(sum, a, b);
    }
    int32_t total = 0;
    for (int lane = 0; lane < kLanes; lane++) total += sum[lane];
    return total;
  }

  // coarse() of Rows query cells and Columns panels of key cells.
  template <int Rows, int Columns>
  static PATCHSWAP_INLINE void multiply(const int32_t* query, const int32_t* key, CellDepth depth, int32_t* result,
                                        int64_t stride) {
    Vector sum[Rows][Columns] = {};
    const int64_t query_step = depth.numbers * QueryPanel, key_step = depth.numbers * kLanes;
    int64_t word = 0;
    for (; word < depth.leading; word++, query += QueryPanel, key += kLanes) {
      Vector right[Columns];
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) right[j] = Base::load(key + j * key_step);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < Columns; j++) {
          add_pairs(sum[i][j], Vector{} + query[i / QueryPanel * query_step + i % QueryPanel], right[j]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) {
        sum[i][j] = (sum[i][j] >> 2 * kLeadingShift) + query[i / QueryPanel * query_step + i % QueryPanel];
      }
    }
    word++, query += QueryPanel, key += kLanes;
    for (; word < depth.numbers; word++, query += QueryPanel, key += kLanes) {
      Vector right[Columns];
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) right[j] = Base::load(key + j * key_step);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
        for (int j = 0; j < Columns; j++) {
          add_quads(sum[i][j], query[i / QueryPanel * query_step + i % QueryPanel], right[j]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 8
      for (int j = 0; j < Columns; j++) Base::at(result + i * stride + j * kLanes) = sum[i][j];
    }
  }
};

}  // namespace patchswap
