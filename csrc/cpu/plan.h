// Whether to prune, along which axes and in which steps.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "bound.h"
#include "cost.h"
#include "forecast.h"
#include "match_kernels.h"

namespace patchswap {

// The constants of this file and of cost.h decide how long a search takes, never what it finds. After a change of them,
//     python benchmarks/bench_match.py --device cpu --features all
// tells the times of the searches on photographs, spectra and noise.

// Axes, as a fraction of the channels. Leading ones: where the walk takes the trailing ones too, and where it does not.
constexpr double kLeadingFractionWithQuads = 0.25, kLeadingFractionAlone = 0.3125, kTrailingFraction = 0.4;
constexpr int64_t kMostAxisChannels = 512;     // more channels get no more axes
constexpr double kTrailingRange = 4;           // of trailing integers, in root mean squares of the strongest axis
constexpr double kLeastTrailingEnergy = 3e-4;  // that counts for the step, as a fraction of all energy
constexpr int64_t kSeedStride = 8;             // the walk for seeds takes one diagonal of so many

inline AxisCount count_axes(int64_t channels, bool takes_quads) {
  const int64_t most = std::min(channels, kMostAxisChannels);
  const double leading_fraction = takes_quads ? kLeadingFractionWithQuads : kLeadingFractionAlone;
  const int64_t leading = std::min(channels, round_up(std::ceil(most * leading_fraction), 2));
  return {leading, std::min(channels, leading + round_up(std::ceil(most * kTrailingFraction), 4))};
}

inline SearchCosts costs_of(const PrunedKernel& kernel, int64_t channels, int64_t patch_size) {
  return search_costs(channels, patch_size, count_axes(channels, kernel.takes_quads), kernel.takes_quads,
                      kernel.key_panel());
}

// Whether the automatic choice tries to prune: where finding the axes costs little, even if pruning then does not pay.
template <class Element>
bool pruning_may_pay(const Map<Element>& query_map, const Map<Element>& key_map) {
#if defined(__x86_64__)
  constexpr int64_t kFewestChannels = 64;
  constexpr double kMostAxesCost = 0.16;  // as a fraction of the dense search
  const double pairs = static_cast<double>(query_map.patches_taking_part()) * key_map.patches_taking_part();
  const SearchCosts costs = costs_of(pruned_kernel(), query_map.channels, query_map.patch_size);
  return query_map.channels >= kFewestChannels && costs.axes < kMostAxesCost * pairs * costs.dense;
#else
  return false;  // no fast products of integers
#endif
}

// Whether all that follows the forecast will probably cost less than the dense search.
inline bool is_promising(const Forecast& forecast, const SearchCosts& costs, int64_t queries, int64_t keys,
                         int64_t topk) {
  // The forecast takes thresholds for fixed, but they rise during the search: this part of its full scores is left. It
  // leaves out the keys above the worst seed, of which there are kSeedStride for each key that is wanted. The later
  // thresholds rise, the more often these are scored. All are fits to times on photographs, spectra and noise.
  constexpr double kStillBeyond = 0.4, kAboveSeeds = 2 * kSeedStride, kLateThresholds = 1.3;
  const double pairs = static_cast<double>(queries) * keys;
  const double walks = 1 + 1.0 / kSeedStride;
  const double above = std::min(1.0, kAboveSeeds * std::pow(topk, kLateThresholds) / keys);
  const double pruned = (queries + keys) * costs.encoded + pairs * walks * costs.walked +
                        pairs * (above + forecast.beyond_leading) * costs.refined +
                        pairs * (above + kStillBeyond * forecast.beyond_all) * costs.scored;
  return pruned < pairs * costs.dense;
}

// How two maps are made coarse.
struct CoarsePlan {
  CoarseScheme scheme;
  double query_step, key_step;
};

// Sets the sizes of words and separate integers for the basis of the scheme.
inline void lay_out(CoarseScheme& scheme, bool takes_quads) {
  const Basis& basis = scheme.basis;
  scheme.pairs = divide_up(basis.leading, 2);
  if (takes_quads) {
    scheme.quads = divide_up(basis.axes - basis.leading, 4);
  } else {
    scheme.separate_count = round_up(basis.axes - basis.leading, kSeparateMultiple);
  }
}

// Sets the steps, and what depends on them: the step for cells of norm 1 is returned. 127 steps reach kTrailingRange
// root mean squares of the strongest trailing axis; what lies beyond is clipped. Where little energy is left for
// trailing axes, the step is large enough for the leading integers.
inline double choose_step(CoarseScheme& scheme) {
  const Basis& basis = scheme.basis;
  const double strongest = std::max({basis.first_trailing_energy, basis.energy * kLeastTrailingEnergy, 1e-30});
  const double step = kTrailingRange * std::sqrt(strongest) / kMostTrailing;
  // X^2 is about A / E, where the bound is lowest: both are means over an axis. Rounding to a step loses step /
  // sqrt(12).
  const double error = step / std::sqrt(12.0);
  auto balance = [&](double energy, int64_t axes, double lost) {
    return std::sqrt(std::max(energy, error * error) / std::max<int64_t>(1, axes)) / lost;
  };
  scheme.leading_balance = balance(basis.leading_energy, basis.leading, error / (1 << kLeadingShift));
  scheme.trailing_balance = balance(basis.trailing_energy, basis.axes - basis.leading, error);
  return step;
}

// The plan for these maps; nothing where a map is zero, where the bound would not hold, or where, unless `insist`, the
// dense search promises to be faster.
template <class Element>
std::optional<CoarsePlan> plan_coarse_cells(const Map<Element>& query_map, int64_t queries, const Map<Element>& key_map,
                                            int64_t keys, int64_t topk, const PrunedKernel& kernel, bool insist) {
  const int64_t channels = query_map.channels, patch_size = query_map.patch_size;
  std::vector<float> sample;
  const double key_norm = sample_cells(key_map, keys, sample), query_norm = sample_cells(query_map, queries, sample);
  if (key_norm == 0 || query_norm == 0) return std::nullopt;
  CoarsePlan plan{};
  CoarseScheme& scheme = plan.scheme;
  Basis& basis = scheme.basis;
  basis.channels = channels;
  const AxisCount count = count_axes(channels, kernel.takes_quads);
  basis.axes = std::min<int64_t>(count.axes, sample.size() / channels);  // at most as many as sampled cells
  basis.leading = std::min(count.leading, basis.axes);
  find_axes(sample, kernel.basis, basis);
  if (!roundings_hold(basis, patch_size)) return std::nullopt;
  lay_out(scheme, kernel.takes_quads);
  const double step = choose_step(scheme);
  if (!insist) {
    const Forecast expected = forecast(query_map, queries, query_norm, key_map, keys, key_norm, topk * kSeedStride,
                                       scheme, step, kernel.basis.products);
    if (!is_promising(expected, costs_of(kernel, channels, patch_size), queries, keys, topk)) return std::nullopt;
  }
  scheme.coordinate_rounding = coordinate_rounding(basis);
  scheme.score_rounding = score_rounding(basis, patch_size);
  plan.query_step = step * query_norm;
  plan.key_step = step * key_norm;
  return plan;
}

}  // namespace patchswap
