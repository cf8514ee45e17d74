// What the searches cost, in instructions on whole registers. The automatic choice decides by these costs and reads no
// clock, so that it is the same every time. Constants were fitted to times of benchmarks/bench_match.py.
#pragma once

#include <algorithm>
#include <cstdint>

#include "basis.h"
#include "forecast.h"

namespace patchswap {

struct SearchCosts {
  double dense;    // a pair of patches in the dense search
  double walked;   // a pair in the coarse walk
  double refined;  // a pair whose bound is refined by its trailing integers
  double scored;   // a pair scored in full: mostly waiting for memory
  double axes;     // finding the axes and forecasting
  double encoded;  // making a cell coarse
};

// `takes_quads`: see coarse.h. `lanes`: of a register full of float32.
inline SearchCosts search_costs(int64_t channels, int64_t patch_size, AxisCount count, bool takes_quads,
                                int64_t lanes) {
  constexpr double kVisit = 8, kVisitPerRow = 9;           // of a pair in both walks, besides the products
  constexpr double kScorePerNumber = 0.4, kScore = 700;    // of a full score: of a number, and of the pair
  constexpr double kRefinePerProduct = 2.5, kRefine = 60;  // of a refined bound: of a product, and besides
  constexpr double kSmallProducts = 2;                     // of a product in small matrices, which the walk has for 1
  constexpr double kPacking = 60, kSampling = 40;          // of a number of a cell
  const double cells = static_cast<double>(patch_size * patch_size), visit = kVisit + kVisitPerRow * patch_size;
  const double trailing = static_cast<double>(count.axes - count.leading);
  const double words = takes_quads ? count.leading / 2.0 + 1 + trailing / 4 : 2 * (count.leading / 2.0) + 1;
  const double length = static_cast<double>(std::min<int64_t>(channels, 2 * kSampledCells)), axes = count.axes;
  const double depth = static_cast<double>(std::max<int64_t>(channels, 2 * kSampledCells));
  const double eigenvectors = length * length * (depth / 2 + kIterations * axes) + kIterations * axes * axes * length;
  const double mapped_back = channels > length ? axes * channels * (length + axes) : 0;
  const ForecastSize forecast = forecast_size(0, patch_size);  // a long search can afford more
  const double patches = forecast.queries + forecast.keys;
  const double sampled = kSampling * channels * (2 * kSampledCells + patches * cells);
  const double checked =
      axes * axes * channels + patches * cells * channels * axes + forecast.queries * forecast.keys * cells * channels;
  return {.dense = (channels + visit) / lanes,
          .walked = (words + visit) / lanes,
          .refined = takes_quads ? 0 : kRefinePerProduct * cells * trailing / lanes + kRefine,
          .scored = kScorePerNumber * cells * channels + kScore,
          .axes = kSmallProducts * (eigenvectors + mapped_back + checked) / lanes + sampled,
          .encoded = channels * (axes + kPacking) / lanes};
}

}  // namespace patchswap
