// Whether to prune, along which axes and in which steps.
#pragma once

#include <algorithm>
#include <cmath>

#include "bound.h"
#include "cost.h"
#include "forecast.h"
#include "match_kernels.h"

namespace patchswap {

// Axes, as a share of the channels. Leading ones: where the walk takes the trailing ones too, and where it does not.
constexpr double kLeadingShareWithQuads = 0.25, kLeadingShareAlone = 0.3125, kTrailingShare = 0.4;
constexpr int64_t kMostAxisChannels = 512;  // more channels get no more axes
constexpr double kTrailingRange = 4;
constexpr int64_t kSeedStride = 8;  // every so many diagonals are searched for good keys to begin with

inline AxisCount count_axes(int64_t channels, bool takes_quads) {
  const int64_t most = std::min(channels, kMostAxisChannels);
  const double leading_share = takes_quads ? kLeadingShareWithQuads : kLeadingShareAlone;
  const int64_t leading = std::min(channels, round_up(std::ceil(most * leading_share), 2));
  return {leading, std::min(channels, leading + round_up(std::ceil(most * kTrailingShare), 4))};
}

inline SearchCosts costs_of(const PrunedKernel& kernel, int64_t channels, int64_t patch_size) {
  return search_costs(channels, patch_size, count_axes(channels, kernel.takes_quads), kernel.takes_quads,
                      kernel.key_panel());
}

// Whether the automatic choice tries to prune: where the axes are cheap, even if in vain.
template <class Element>
bool pruning_may_pay(const Map<Element>& query_map, const Map<Element>& key_map) {
#if defined(__x86_64__)
  constexpr int64_t kChannels = 64;
  constexpr double kMostInVain = 0.14;
  const double pairs = static_cast<double>(query_map.patches_taking_part()) * key_map.patches_taking_part();
  const SearchCosts costs = costs_of(pruned_kernel(), query_map.channels, query_map.patch_size);
  return query_map.channels >= kChannels && costs.axes < kMostInVain * pairs * costs.dense;
#else
  return false;  // no fast products of integers
#endif
}

// Whether all that follows the forecast will cost less than the dense search.
inline bool is_promising(const Forecast& forecast, const SearchCosts& costs, int64_t queries, int64_t keys) {
  const double pairs = static_cast<double>(queries) * keys;
  const double walks = 1 + 1.0 / kSeedStride;
  const double pruned = (queries + keys) * costs.encoded + pairs * walks * costs.walked +
                        pairs * (forecast.beyond_leading * costs.refined + forecast.beyond_all * costs.scored);
  return pruned < pairs * costs.dense;
}

// What the coarse cells of this query and key map are to be, and their steps; false where a map is zero, or where,
// unless `insist`, the dense search promises to be faster.
template <class Element>
bool plan_coarse_cells(const Map<Element>& query_map, int64_t queries, const Map<Element>& key_map, int64_t keys,
                       int64_t topk, const PrunedKernel& kernel, bool insist, CoarseScheme& scheme, double& query_step,
                       double& key_step) {
  const int64_t channels = query_map.channels, patch_size = query_map.patch_size;
  std::vector<float> sample;
  const double key_unit = sample_cells(key_map, keys, sample), query_unit = sample_cells(query_map, queries, sample);
  if (key_unit == 0 || query_unit == 0) return false;
  Basis& basis = scheme.basis;
  basis.channels = channels;
  const AxisCount count = count_axes(channels, kernel.takes_quads);
  basis.axes = std::min<int64_t>(count.axes, sample.size() / channels);  // no more than cells to tell them from
  basis.leading = std::min(count.leading, basis.axes);
  find_axes(sample, kernel.basis, basis);
  if (!insist) {
    const Forecast expected = forecast(query_map, queries, query_unit, key_map, keys, key_unit, topk * kSeedStride,
                                       basis, kernel.basis.products);
    if (!is_promising(expected, costs_of(kernel, channels, patch_size), queries, keys)) return false;
  }
  scheme.pairs = divide_up(basis.leading, 2);
  if (kernel.takes_quads) {
    scheme.quads = divide_up(basis.axes - basis.leading, 4);
  } else {
    scheme.kept_apart = round_up(basis.axes - basis.leading, kKeptTogether);
  }
  // A step lets 127 of them reach some root mean squares of the strongest trailing axis; what lies beyond is clipped.
  // It is not so small that leading numbers would overflow, which happens where little energy is left for trailing
  // axes.
  const double strongest = std::max({basis.first_trailing_energy, basis.energy * 3e-4, 1e-30});
  const double step = kTrailingRange * std::sqrt(strongest) / kMostTrailing;
  query_step = step * query_unit;
  key_step = step * key_unit;
  const double error = step / std::sqrt(12.0);
  scheme.leading_balance =
      std::sqrt(std::max(basis.leading_energy, error * error) / basis.leading) / (error / (1 << kLeadingShift));
  scheme.trailing_balance =
      std::sqrt(std::max(basis.trailing_energy, error * error) / std::max<int64_t>(1, basis.axes - basis.leading)) /
      error;
  scheme.coordinate_rounding = coordinate_rounding(basis);
  scheme.score_rounding = score_rounding(basis, patch_size);
  return true;
}

}  // namespace patchswap
