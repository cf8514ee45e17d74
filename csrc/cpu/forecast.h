// How many pairs a pruned search will have to look at more closely, estimated from a few of them. It decides whether
// pruning is tried, never what is found.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "coarse.h"

namespace patchswap {

// Fractions of all pairs that the leading axes alone, and that all axes, do not rule out.
struct Forecast {
  double beyond_leading = 0, beyond_all = 0;
};

// How many patches are sampled: more for a longer search, so that the forecast stays cheap beside it. Queries are fewer
// where patches are large, as copying their cells costs most.
struct ForecastSize {
  int64_t queries, keys;
};

constexpr int64_t kFewestForecastKeys = 256, kMostForecastKeys = 1024;

inline ForecastSize forecast_size(double pairs, int64_t patch_size) {
  constexpr double kSampledShare = 1.0 / 24;
  const int64_t keys = std::clamp<int64_t>(kSampledShare * std::sqrt(pairs), kFewestForecastKeys, kMostForecastKeys);
  return {std::max<int64_t>(1, keys / (patch_size * patch_size)), keys};
}

// Some patches of a map with the expected widths w of their bounds (coarse.h), as fractions of their norms: for the
// leading axes alone, and for all axes.
struct PatchSample {
  int64_t count = 0, numbers = 0;
  std::vector<float> patches;  // [count][numbers]
  std::vector<double> norm, leading_width, width;
};

// `step`: of the coarse cells, for cells of norm 1; the map's have the norm `norm`.
template <class Element>
PatchSample sample_patches(const Map<Element>& map, int64_t patches, int64_t most, double norm,
                           const CoarseScheme& scheme, double step, const ProductKernel<float>& products) {
  const auto spread = spread_patches(map, patches, most);
  const int64_t count = spread.size(), channels = map.channels, cells_each = map.patch_size * map.patch_size;
  const int64_t cells = count * cells_each, stride = round_up(cells, 16);
  PatchSample sample{.count = count, .numbers = cells_each * channels};
  sample.patches.resize(cells * channels);
  std::vector<std::pair<int64_t, int64_t>> covered;
  for (const auto& [row, column] : spread) {
    for (int64_t cell = 0; cell < cells_each; cell++) {
      covered.emplace_back(row + cell / map.patch_size, column + cell % map.patch_size);
    }
  }
  torch::stable::parallel_for(0, cells, 64, [&](int64_t begin, int64_t end) {
    map.copy_cells(covered.data() + begin, end - begin, sample.patches.data() + begin * channels);
  });
  for (float& number : sample.patches) number = static_cast<float>(number / norm);

  const Basis& basis = scheme.basis;
  const PackedRows<float> axes(basis.axis.data(), basis.axes, channels, channels, 1, products.left_panel);
  const PackedRows<float> all_cells(sample.patches.data(), cells, channels, channels, 1, products.right_panel);
  const Buffer<float> coordinates(round_up(basis.axes, kRowsTogether) * stride);
  multiply(products, axes, all_cells, coordinates.get(), stride, false);
  struct Part {
    double size = 0, error = 0;  // A^2 and E^2 of some axes
  };
  std::vector<Part> leading(cells), trailing(cells);  // of each cell
  for (int64_t axis = 0; axis < basis.axes; axis++) {
    const bool leads = axis < basis.leading;
    const float* row = coordinates.get() + axis * stride;
    const double unit = leads ? step / (1 << kLeadingShift) : step,
                 most = unit * (leads ? kMostLeading : kMostTrailing);
    std::vector<Part>& parts = leads ? leading : trailing;
    for (int64_t cell = 0; cell < cells; cell++) {
      const double size = std::abs(row[cell]), beyond = std::max(0.0, size - most);
      parts[cell].size += size * size;
      parts[cell].error += unit * unit / 12 + beyond * beyond;  // by rounding, and by clipping
    }
  }
  for (int64_t i = 0; i < count; i++) {
    const float* patch = sample.patches.data() + i * sample.numbers;
    const double square = std::inner_product(patch, patch + sample.numbers, patch, 0.0);
    auto sum_of = [&](const std::vector<Part>& parts) {
      Part sum;
      for (int64_t cell = i * cells_each; cell < (i + 1) * cells_each; cell++) {
        sum.size += parts[cell].size;
        sum.error += parts[cell].error;
      }
      return sum;
    };
    const Part along_leading = sum_of(leading), along_trailing = sum_of(trailing);
    auto lost = [](const Part& part, double balance) { return part.error * balance + part.size / balance; };
    const double leading_lost = lost(along_leading, scheme.leading_balance) + cells_each * step * step;
    const double trailing_lost = lost(along_trailing, scheme.trailing_balance);
    auto width_of = [&](double along, double lost) {
      return square > 0 ? std::sqrt((std::max(0.0, square - along) + lost) / square) : 0;
    };
    sample.norm.push_back(std::sqrt(square));
    sample.leading_width.push_back(width_of(along_leading.size, leading_lost));
    sample.width.push_back(width_of(along_leading.size + along_trailing.size, leading_lost + trailing_lost));
  }
  return sample;
}

// A pair is ruled out where its score plus the product of both widths stays below the score of the query's worst seed.
// This seed has rank `rank` among all keys, and about rank * (sampled keys / keys) in the sample. Where that is less
// than 1, the best key of the sample stands for it. The factor sqrt(rank in the sample) makes up for that; counts on
// photographs and noise gave it.
template <class Element>
Forecast forecast(const Map<Element>& query_map, int64_t queries, double query_norm, const Map<Element>& key_map,
                  int64_t keys, double key_norm, int64_t rank, const CoarseScheme& scheme, double step,
                  const ProductKernel<float>& products) {
  const ForecastSize size = forecast_size(static_cast<double>(queries) * keys, query_map.patch_size);
  const PatchSample query = sample_patches(query_map, queries, size.queries, query_norm, scheme, step, products);
  const PatchSample key = sample_patches(key_map, keys, size.keys, key_norm, scheme, step, products);
  const int64_t stride = round_up(key.count, 16);
  const Buffer<float> score(round_up(query.count, kRowsTogether) * stride);
  multiply(products, {query.patches.data(), query.count, query.numbers, query.numbers, 1, products.left_panel},
           {key.patches.data(), key.count, key.numbers, key.numbers, 1, products.right_panel}, score.get(), stride,
           false);
  double beyond_leading = 0, beyond_all = 0;
  const double sampled_rank = static_cast<double>(rank) * key.count / keys;
  const int64_t place = std::clamp<int64_t>(std::llround(sampled_rank) - 1, 0, key.count - 1);
  for (int64_t i = 0; i < query.count; i++) {
    auto score_of = [&](int64_t j) {
      const double norms = query.norm[i] * key.norm[j];
      return norms > 0 ? score.get()[i * stride + j] / norms : 0.0;
    };
    std::vector<double> scores(key.count);
    for (int64_t j = 0; j < key.count; j++) scores[j] = score_of(j);
    std::nth_element(scores.begin(), scores.begin() + place, scores.end(), std::greater<>());
    for (int64_t j = 0; j < key.count; j++) {
      const double missing = scores[place] - score_of(j);
      if (missing <= 0) continue;
      beyond_leading += query.leading_width[i] * key.leading_width[j] >= missing;
      beyond_all += query.width[i] * key.width[j] >= missing;
    }
  }
  const double pairs = static_cast<double>(query.count) * key.count;
  const double factor = std::sqrt(std::min(1.0, sampled_rank)) / pairs;
  return {beyond_leading * factor, beyond_all * factor};
}

}  // namespace patchswap
