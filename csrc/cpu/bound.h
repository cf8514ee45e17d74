// The bound on what a pair of coarse patches can miss of its score, and what it allows for rounding. docs/kernels.md
// proves it, and the tests delete each term.
#pragma once

#include <cmath>
#include <cstdint>

#include "coarse.h"
#include "tiles.h"

namespace patchswap {

constexpr double kSmallestNorm = 1e-12;  // below, absolute rounding would matter: left to the dense search

// The rounding of a float32 sum of `terms` products, relative to the norms.
inline double sum_rounding(double terms) { return 1.01 * terms * 0x1p-24; }

// Of a cell's computed coordinates, relative to its norm.
inline double coordinate_rounding(const Basis& basis) {
  return sum_rounding(basis.channels + 8) * std::sqrt(basis.axes * (1 + basis.deviation));
}

// Of the dense search's ranking and of the bound's own evaluation, and what axes that are not quite orthonormal miss.
inline double score_rounding(const Basis& basis, int64_t patch_size) {
  return 1.2 * basis.deviation + sum_rounding(basis.channels + patch_size * patch_size + 32);
}

// Of a score in any order of summation against the dense ranking.
inline double rescore_rounding(int64_t channels, int64_t patch_size) {
  const int64_t cells = patch_size * patch_size;
  return sum_rounding(cells * (channels / 4 + 32)) + sum_rounding(channels + cells + 4);
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
