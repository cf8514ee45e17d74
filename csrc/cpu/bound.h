// The bound on what a pair of coarse patches can miss of its score, and every allowance for rounding in it.
// docs/kernels.md proves it. tests/cpu_bound checks it on all pairs, and deletes each term.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "coarse.h"
#include "tiles.h"

namespace patchswap {

// Patches of smaller norms go to the dense search: products of their numbers may be denormal, where rounding is
// absolute.
constexpr double kSmallestNorm = 1e-12;
// Queries of larger norms in steps go there too. Rankings in steps then stay within float32, and so does a step: it is
// at least kSmallestNorm / kMostSteps, a normal number.
constexpr double kMostSteps = 1e25;
// Relative rounding of a cell's sums of squares, which are float32 sums of fewer than 512 terms.
constexpr double kSquaresRounding = 1e-4;
// Rounding of |x|^2 - |a|^2 in double precision, relative to |x|^2.
constexpr double kSubtractionRounding = 1e-12;
// Relative rounding of w and of N in steps, whose factors are float32.
constexpr double kWeightRounding = 1e-6;

// The rounding of a float32 sum of n products, relative to the norms: n u / (1 - n u) with u = 2^-24. The factor covers
// the denominator for n below 160,000.
inline double sum_rounding(double terms) { return 1.01 * terms * 0x1p-24; }

// Of a cell's computed coordinates, relative to its norm. Each is a sum of C products, then scaled to integers, which
// rounds fewer than 8 times.
inline double coordinate_rounding(const Basis& basis) {
  return sum_rounding(basis.channels + 8) * std::sqrt(basis.axes * (1 + basis.deviation));
}

// eta. With e the deviation, axes that are not quite orthonormal miss e / (1 - e), at most 1.2 e for e up to 1/6. The
// dense search's ranking is a sum of C products for each pair of cells and of p^2 such pairs. The 32 cover its scaling
// and the evaluation of the bound.
inline double score_rounding(const Basis& basis, int64_t patch_size) {
  return 1.2 * basis.deviation + sum_rounding(basis.channels + patch_size * patch_size + 32);
}

// Of fast_product() and of the dense ranking together. fast_product() adds up, for each pair of cells, at most C / 16
// products in a lane of a chain and 63 outside the chains. Fewer than 8 additions then combine lanes and chains.
inline double rescore_rounding(int64_t channels, int64_t patch_size) {
  const double cells = static_cast<double>(patch_size * patch_size);
  return sum_rounding(cells * (channels / 16.0 + 64) + 8) + sum_rounding(channels + cells + 4);
}

// Whether the factors 1.01 and 1.2 above suffice: the sums have few enough terms, and the axes are nearly orthonormal.
inline bool roundings_hold(const Basis& basis, int64_t patch_size) {
  constexpr double kMostTerms = 160000, kMostDeviation = 1.0 / 6;
  const double cells = static_cast<double>(patch_size * patch_size), channels = static_cast<double>(basis.channels);
  const double terms = std::max(channels + cells + 32, cells * (channels / 16 + 64) + 8);
  return terms < kMostTerms && basis.deviation <= kMostDeviation;
}

// The bound w of a patch, for what the walk adds up and for all axes.
struct PatchWeights {
  double walk, refined;
};

// Of the patch that begins at a slot of a row, from the errors of the tile's cells and its norm in steps.
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
  // (E X)^2 + (A / X)^2
  auto balanced = [&](double error, double size, double balance) {
    const double most_error = std::sqrt(error) + slack, most_size = std::sqrt(size) + most_error;
    return most_error * most_error * balance + most_size * most_size / balance;
  };
  const double leading = balanced(leading_error, leading_size, scheme.leading_balance) +
                         scheme.score_rounding * norm * norm + patch_size * patch_size;
  const double trailing = balanced(trailing_error, trailing_size, scheme.trailing_balance);
  const double refined = std::sqrt(leading + trailing + off_axis);
  return {.walk = scheme.separate_count > 0 ? std::sqrt(leading + off_leading) : refined, .refined = refined};
}

}  // namespace patchswap
