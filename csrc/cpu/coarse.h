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
    if constexpr (Instructions == WholeNumbers::kPairsAndQuads) {
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
    if constexpr (Instructions == WholeNumbers::kPairsAndQuads) {
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

// A row of cells to be made coarse.
struct EncodeTask {
  const CoarseScheme& scheme;
  double factor;               // from coordinates to steps
  const float* coordinates;    // [axes][slots], slots a multiple of kEncodedTogether
  const double* square_norms;  // [slots]: of the cells themselves, not in steps
  int64_t slots;
  bool is_query;
  int64_t panel, word_slots;  // of the result; word_slots <= slots
  int32_t* words;             // [word_slots / panel][words][panel]
  int8_t* kept_apart;         // [word_slots][scheme.kept_apart]
  CoarseErrors* errors;       // [word_slots]
};

constexpr int64_t kEncodedTogether = 16;

// Words and errors of kEncodedTogether slots, from the given one on.
PATCHSWAP_INLINE void encode_slots(const EncodeTask& task, int64_t first) {
  using Floats = Registers<float, kEncodedTogether * 4>;
  using Ints = Registers<int32_t, kEncodedTogether * 4>;
  using Values = Floats::Vector;
  using Numbers = Ints::Vector;
  const CoarseScheme& scheme = task.scheme;
  const Basis& basis = scheme.basis;
  const int64_t words = scheme.depth().numbers, panel = task.panel;
  const int64_t present = std::min(kEncodedTogether, task.word_slots - first);
  int32_t* const to = task.words + first / panel * words * panel;
  const float* from = task.coordinates + first;
  const float trailing_factor = static_cast<float>(task.factor);
  const float leading_factor = trailing_factor * (1 << kLeadingShift);
  Values size = {}, error = {}, along = {};
  int32_t word[kEncodedTogether];

  auto store = [&](int64_t index) __attribute__((always_inline)) {
    for (int64_t i = 0; i < present; i += panel) {
      for (int64_t n = 0; n < panel; n++) to[(i / panel * words + index) * panel + n] = word[i + n];
    }
  };

  for (int64_t pair = 0; pair < scheme.pairs; pair++) {
    Numbers packed = {};
    for (int64_t i = 2 * pair; i < std::min(2 * pair + 2, basis.leading); i++, from += task.slots) {
      const Values value = Floats::load(from) * leading_factor;
      Values clipped = value > kMostLeading ? Values{} + kMostLeading : value;
      clipped = clipped < -kMostLeading ? Values{} - kMostLeading : clipped;
      const Numbers number =
          __builtin_convertvector(clipped + (clipped < 0 ? Values{} - 0.5f : Values{} + 0.5f), Numbers);
      const Values rounded = __builtin_convertvector(number, Values), lost = value - rounded;
      size += rounded * rounded;
      error += lost * lost;
      along += value * value;
      packed |= (number & 0xffff) << (i % 2 * 16);
    }
    Ints::at(word) = packed;
    store(pair);
  }
  constexpr float kFine = 1.0f / (1 << 2 * kLeadingShift);
  float leading_size[kEncodedTogether], leading_error[kEncodedTogether];
  Floats::at(leading_size) = size * kFine;
  Floats::at(leading_error) = error * kFine;
  along *= kFine;
  for (int64_t i = 0; i < present; i++) {
    if (leading_size[i] < kMostLeadingSquare * kFine) continue;
    // Too large for the products: nothing is coarsely known of this cell's leading part.
    for (int64_t pair = 0; pair < scheme.pairs; pair++) to[(i / panel * words + pair) * panel + i % panel] = 0;
    leading_error[i] = along[i];
    leading_size[i] = 0;
  }

  const Values along_leading = along;
  size = error = Values{};
  Numbers sum = {};
  if (scheme.kept_apart > 0) {
    std::fill_n(task.kept_apart + first * scheme.kept_apart, present * scheme.kept_apart, int8_t(0));
  }
  const int32_t offset = task.is_query ? 0 : 128;
  for (int64_t quad = 0; quad < divide_up(basis.axes - basis.leading, 4); quad++) {
    Numbers packed = {};
    const int64_t begin = basis.leading + 4 * quad;
    for (int64_t i = begin; i < std::min(begin + 4, basis.axes); i++, from += task.slots) {
      const Values value = Floats::load(from) * trailing_factor;
      Values clipped = value > kMostTrailing ? Values{} + kMostTrailing : value;
      clipped = clipped < -kMostTrailing ? Values{} - kMostTrailing : clipped;
      const Numbers number =
          __builtin_convertvector(clipped + (clipped < 0 ? Values{} - 0.5f : Values{} + 0.5f), Numbers);
      const Values rounded = __builtin_convertvector(number, Values), lost = value - rounded;
      size += rounded * rounded;
      error += lost * lost;
      along += value * value;
      sum += number;
      packed |= ((number + offset) & 0xff) << static_cast<int32_t>((i - begin) * 8);
      for (int64_t n = 0; scheme.kept_apart > 0 && n < present; n++) {
        task.kept_apart[(first + n) * scheme.kept_apart + i - basis.leading] = static_cast<int8_t>(number[n]);
      }
    }
    if (quad >= scheme.quads) continue;
    Ints::at(word) = packed;
    store(scheme.pairs + 1 + quad);
  }
  Ints::at(word) = task.is_query && scheme.quads > 0 ? sum * -128 : Numbers{};
  store(scheme.pairs);

  constexpr float kUp = 1 + 1e-4f;  // covers the rounding of these sums themselves
  for (int64_t i = 0; i < present; i++) {
    // What lies off the axes: at most |x|^2 minus the square of what is surely along them.
    const double square = task.square_norms[first + i] * task.factor * task.factor;
    auto off = [&](float square_along) {
      const double surely =
          std::max(0.0, std::sqrt(square_along * (1 - 1e-4)) - scheme.coordinate_rounding * std::sqrt(square));
      return static_cast<float>(std::max(0.0, square - surely * surely * (1 - scheme.basis.deviation)) +
                                1e-12 * square);
    };
    task.errors[first + i] = {leading_error[i] * kUp, leading_size[i] * kUp,       error[i] * kUp,
                              size[i] * kUp,          off(along_leading[i]) * kUp, off(along[i]) * kUp};
  }
}

// The bounds w of a patch: for what the walk adds up, and with the numbers that are kept apart.
struct PatchWeights {
  double walk, refined;
};

// Those of the patch that begins at a slot of a row, from the errors of the tile's cells and its norm in steps.
inline PatchWeights patch_weights(const CoarseScheme& scheme, const Tile& tile, const CoarseErrors* cells, int64_t row,
                                  int64_t slot, int64_t patch_size, double norm) {
  double leading_error = 0, leading_size = 0, trailing_error = 0, trailing_size = 0, off_leading = 0, off_axis = 0;
  for (int64_t dy = 0; dy < patch_size; dy++) {
    const CoarseErrors* first = cells + (row + dy) * tile.slots + tile.slot(dy, row, slot);
    for (int64_t dx = 0; dx < patch_size; dx++) {
      const CoarseErrors& cell = first[dx];
      leading_error += cell.leading_error;
      leading_size += cell.leading_size;
      trailing_error += cell.trailing_error;
      trailing_size += cell.trailing_size;
      off_leading += cell.off_leading;
      off_axis += cell.off_axis;
    }
  }
  const double slack = scheme.coordinate_rounding * norm;
  auto balanced = [&](double error, double size, double balance) {
    const double most_error = std::sqrt(error) + slack, most_size = std::sqrt(size) + most_error;
    return most_error * most_error * balance + most_size * most_size / balance;
  };
  const double leading = balanced(leading_error, leading_size, scheme.leading_balance) +
                         scheme.score_rounding * norm * norm + patch_size * patch_size;
  const double trailing = balanced(trailing_error, trailing_size, scheme.trailing_balance);
  const double refined = std::sqrt(leading + trailing + off_axis);
  return {.walk = scheme.kept_apart > 0 ? std::sqrt(leading + off_leading) : refined, .refined = refined};
}

}  // namespace patchswap
