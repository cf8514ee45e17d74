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
#include "pack.h"

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

}  // namespace patchswap
