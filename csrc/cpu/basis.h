// The axes along which a coarse score looks at cells: a few directions that hold most of the features' energy.
//
// They are found by subspace iteration on the second moments of a sample of cells. How well they are chosen decides how
// much is pruned, never what is found: coarse.h bounds whatever they leave out, for any axes.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "pack.h"

namespace patchswap {

struct Basis {
  int64_t channels = 0, leading = 0, axes = 0;  // the first `leading` axes hold the most energy
  std::vector<float> axis;                      // [axes][channels], orthonormal but for rounding
  double deviation = 0;                         // Frobenius norm of axis axis^T - 1, or more
  // Mean squares of a sampled cell: along the leading and the trailing axes, along the first trailing one, and in all.
  double leading_energy = 0, trailing_energy = 0, first_trailing_energy = 0, energy = 0;
};

constexpr int64_t kSampledCells = 512;
constexpr int kIterations = 3;

// The middle cells of about kSampledCells of the `patches` patches that take part, [cells][channels], divided by the
// power of two near their root mean square norm, which is returned; 0 if they are all zero.
template <class Element>
double sample_cells(const Map<Element>& map, int64_t patches, std::vector<float>& sample) {
  const int64_t before = sample.size(), step = divide_up(patches, kSampledCells), middle = map.patch_size / 2;
  std::vector<int64_t> sampled;
  for (int64_t patch = 0, passed = 0; patch < map.rows * map.columns; patch++) {
    if (map.takes_part_at(patch) && passed++ % step == 0) sampled.push_back(patch);
  }
  const int64_t cells = sampled.size();
  sample.resize(before + cells * map.channels);
  std::vector<double> square(cells);
  torch::stable::parallel_for(0, cells, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const Element* cell = map.features + (sampled[i] / map.columns + middle) * map.row_stride +
                            (sampled[i] % map.columns + middle) * map.column_stride;
      float* to = sample.data() + before + i * map.channels;
      for (int64_t channel = 0; channel < map.channels; channel++) {
        to[channel] = static_cast<float>(cell[channel * map.channel_stride]);
        square[i] += static_cast<double>(to[channel]) * to[channel];
      }
    }
  });
  const double mean = std::accumulate(square.begin(), square.end(), 0.0) / std::max<int64_t>(cells, 1);
  if (mean == 0) return 0;
  const double unit = std::exp2(std::round(std::log2(mean) / 2));
  for (size_t i = before; i < sample.size(); i++) sample[i] = static_cast<float>(sample[i] / unit);
  return unit;
}

// result[i][j] = sum over k of left[i + k * left_stride] * right[k][j], for i in [begin, end) and all j.
PATCHSWAP_INLINE void multiply_rows_of(const float* left, int64_t row_stride, int64_t left_stride, const float* right,
                                       int64_t depth, int64_t columns, int64_t begin, int64_t end, float* result) {
  constexpr int64_t kBlock = 64;
  for (int64_t i = begin; i < end; i++) {
    for (int64_t j = 0; j < columns; j += kBlock) {
      float sum[kBlock] = {};
      const int64_t width = std::min(kBlock, columns - j);
      if (width == kBlock) {
        for (int64_t k = 0; k < depth; k++) {
          const float factor = left[i * row_stride + k * left_stride];
          for (int64_t n = 0; n < kBlock; n++) sum[n] += factor * right[k * columns + j + n];
        }
      } else {
        for (int64_t k = 0; k < depth; k++) {
          const float factor = left[i * row_stride + k * left_stride];
          for (int64_t n = 0; n < width; n++) sum[n] += factor * right[k * columns + j + n];
        }
      }
      std::copy_n(sum, width, result + i * columns + j);
    }
  }
}

PATCHSWAP_INLINE float inner_product(const float* left, const float* right, int64_t count) {
  constexpr int64_t kLanes = 64;
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t n = 0; n < kLanes; n++) lane[n] += left[i + n] * right[i + n];
  }
  for (int64_t n = 0; i + n < count; n++) lane[n] += left[i + n] * right[i + n];
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t n = 0; n < half; n++) lane[n] += lane[n + half];
  }
  return lane[0];
}

// Gram-Schmidt, every vector `passes` times; what lies in the span of those before it is replaced by a coordinate axis
// that does not.
PATCHSWAP_INLINE void orthonormalise(float* vectors, int64_t count, int64_t length, int passes) {
  int64_t coordinate = 0;
  for (int64_t i = 0; i < count; i++) {
    float* vector = vectors + i * length;
    float before = std::sqrt(inner_product(vector, vector, length));
    for (int pass = 0; pass < passes;) {
      for (int64_t j = 0; j < i; j++) {
        const float* other = vectors + j * length;
        const float along = inner_product(vector, other, length);
        for (int64_t n = 0; n < length; n++) vector[n] -= along * other[n];
      }
      const float norm = std::sqrt(inner_product(vector, vector, length));
      if (!(norm > 1e-3f * before) || !(norm > 1e-20f)) {
        std::fill_n(vector, length, 0.0f);
        vector[coordinate++ % length] = 1;
        before = 1;
        pass = 0;
        continue;
      }
      for (int64_t n = 0; n < length; n++) vector[n] /= norm;
      before = 1;
      pass++;
    }
  }
}

// Frobenius norm of axis axis^T - 1, or more. In double precision, as the bound of coarse.h is no tighter than this.
inline double deviation(const Basis& basis) {
  const double rounding = 1.01 * basis.channels * 0x1p-53 * 1.01;
  std::vector<double> square(basis.axes);
  torch::stable::parallel_for(0, basis.axes, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const float* left = &basis.axis[i * basis.channels];
      for (int64_t j = 0; j < basis.axes; j++) {
        constexpr int kChains = 8;
        const float* right = &basis.axis[j * basis.channels];
        double sum[kChains] = {};
        int64_t channel = 0;
        for (; channel + kChains <= basis.channels; channel += kChains) {
          for (int n = 0; n < kChains; n++) sum[n] += static_cast<double>(left[channel + n]) * right[channel + n];
        }
        for (; channel < basis.channels; channel++) sum[0] += static_cast<double>(left[channel]) * right[channel];
        const double off = std::abs(std::accumulate(sum, sum + kChains, 0.0) - (i == j)) + rounding;
        square[i] += off * off;
      }
    }
  });
  return std::sqrt(std::accumulate(square.begin(), square.end(), 0.0)) * (1 + 1e-9);
}

// multiply_rows_of() and orthonormalise() for one instruction set.
struct BasisKernel {
  void (*multiply_rows)(const float* left, int64_t row_stride, int64_t left_stride, const float* right, int64_t depth,
                        int64_t columns, int64_t begin, int64_t end, float* result);
  void (*orthonormalise)(float* vectors, int64_t count, int64_t length, int passes);
};

inline void find_axes(const std::vector<float>& sample, const BasisKernel& kernel, Basis& basis) {
  const int64_t channels = basis.channels, axes = basis.axes, cells = sample.size() / channels;
  auto multiply = [&](const float* left, int64_t row_stride, int64_t left_stride, const float* right, int64_t depth,
                      int64_t rows, float* result) {
    torch::stable::parallel_for(0, rows, grain_size(depth * channels), [&](int64_t begin, int64_t end) {
      kernel.multiply_rows(left, row_stride, left_stride, right, depth, channels, begin, end, result);
    });
  };
  std::vector<float> moments(channels * channels), next(axes * channels);
  multiply(sample.data(), 1, channels, sample.data(), cells, channels, moments.data());
  basis.axis.resize(axes * channels);
  uint32_t random = 1;
  for (float& number : basis.axis)
    number = static_cast<float>((random = random * 1664525u + 1013904223u) >> 8) - (1 << 23);
  for (int i = 0; i < kIterations; i++) {
    multiply(basis.axis.data(), channels, 1, moments.data(), channels, axes, next.data());
    basis.axis.swap(next);
    kernel.orthonormalise(basis.axis.data(), axes, channels, i + 1 < kIterations ? 1 : 2);
  }
  multiply(basis.axis.data(), channels, 1, moments.data(), channels, axes, next.data());
  std::vector<double> energy(axes);
  for (int64_t i = 0; i < axes; i++) {
    energy[i] = inner_product(&next[i * channels], &basis.axis[i * channels], channels) / cells;
  }
  std::vector<int64_t> order(axes);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return energy[i] > energy[j]; });
  for (int64_t i = 0; i < axes; i++) {
    std::copy_n(&basis.axis[order[i] * channels], channels, &next[i * channels]);
    if (i == basis.leading) basis.first_trailing_energy = energy[order[i]];
    (i < basis.leading ? basis.leading_energy : basis.trailing_energy) += energy[order[i]];
  }
  basis.axis.swap(next);
  for (int64_t i = 0; i < channels; i++) basis.energy += moments[i * channels + i] / cells;
  basis.deviation = deviation(basis);
}

}  // namespace patchswap
