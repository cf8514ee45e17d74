// Coarse cells: a few integers for each cell, whose inner products are exact and cheap. docs/kernels.md proves a bound
// on how far these are from the true ones.
//
// A cell x has the coordinates a = V x along the axes of basis.h. They are rounded to integers, in units of a step: the
// leading ones to an eighth of a step in 16 bits, the trailing ones to a step in 8 bits. With h and l these integers,
//     coarse(x, y) = floor(<h_x, h_y> / 64) + <l_x, l_y>.
// Without VNNI, quads of 8 bits multiply no faster than pairs of 16. The walk then takes the leading integers only. The
// trailing ones are stored separately. They refine the bound of those pairs that the leading ones do not rule out.
//
// Rounding loses e = a - rounded a, for the leading and the trailing axes. The axes lose r, the part of x orthogonal to
// them. All are stacked over the p * p cells of a patch and measured in steps: E and A are the norms of the errors and
// of the rounded coordinates, N is the norm of the patch, and R that of r. For a query patch and a key patch
//     | <query, key> / (step step') - coarse | <= w w',
//     w^2 = (E_h X_h)^2 + (A_h / X_h)^2 + (E_l X_l)^2 + (A_l / X_l)^2 + R^2 + eta N^2 + p^2
// for any X_h, X_l. eta covers rounding in float32, here and in the full-precision score. For the leading integers
// alone the same holds without E_l and A_l, with R the norm of what is orthogonal to the leading axes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "basis.h"
#include "pack.h"

namespace patchswap {

constexpr int64_t kSeparateMultiple = 32;  // separate trailing integers of a cell: the bytes of half a register
constexpr int kLeadingShift = 3;           // leading coordinates are this many bits finer than trailing ones
constexpr float kMostLeading = 32767, kMostTrailing = 127;
constexpr float kMostLeadingSquare = 2.1e9f;  // of a cell: inner products of leading integers stay below 2^31

// What both maps' coarse cells have in common.
struct CoarseScheme {
  Basis basis;
  int64_t pairs = 0, quads = 0;  // words of two leading, of four trailing integers
  int64_t separate_count = 0;    // trailing integers of a cell outside its words, with zeros up to kSeparateMultiple
  double leading_balance, trailing_balance;  // X_h^2 and X_l^2
  double coordinate_rounding;                // the error of a computed coordinate vector, relative to the cell's norm
  double score_rounding;                     // eta

  CellDepth depth() const { return {.numbers = pairs + 1 + quads, .leading = pairs}; }
};

// A cell's sums of squares in steps: its terms of E^2 and A^2, and of R^2 for the leading axes and for all.
struct CoarseErrors {
  float leading_error, leading_size, trailing_error, trailing_size, off_leading, off_axis;
};

}  // namespace patchswap
