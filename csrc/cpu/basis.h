// The axes along which a coarse score looks at cells: a few directions that hold most of the features' energy.
//
// They are found by subspace iteration on the second moments of a sample of cells. The axes decide how much is pruned,
// never what is found: bound.h bounds what they leave out, for any axes.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "buffer.h"
#include "grain.h"
#include "map.h"

namespace patchswap {

struct Basis {
  int64_t channels = 0, leading = 0, axes = 0;  // the first `leading` axes hold the most energy
  std::vector<float> axis;                      // [axes][channels], orthonormal but for rounding
  double deviation = 0;                         // Frobenius norm of axis axis^T - 1, or more
  // Mean squares of a sampled cell: along the leading and the trailing axes, along the first trailing one, and in all.
  double leading_energy = 0, trailing_energy = 0, first_trailing_energy = 0, energy = 0;
};

struct AxisCount {
  int64_t leading, axes;
};

constexpr int64_t kSampledCells = 512;  // of each map
constexpr int kIterations = 3;

// Patches that take part, at most `most` of the `patches` in the map, evenly spread.
template <class Element>
std::vector<std::pair<int64_t, int64_t>> spread_patches(const Map<Element>& map, int64_t patches, int64_t most) {
  const int64_t step = divide_up(patches, most);
  std::vector<std::pair<int64_t, int64_t>> spread;  // (row, column)
  int64_t passed = 0;
  for (int64_t row = 0; row < map.rows; row++) {
    for (int64_t column = 0; column < map.columns; column++) {
      if (map.takes_part(row, column) && passed++ % step == 0) spread.emplace_back(row, column);
    }
  }
  return spread;
}

// The middle cells of about kSampledCells of the `patches` patches that take part, [cells][channels], divided by the
// power of two near their root mean square norm, which is returned; 0 if they are all zero.
template <class Element>
double sample_cells(const Map<Element>& map, int64_t patches, std::vector<float>& sample) {
  const int64_t before = sample.size(), middle = map.patch_size / 2;
  auto sampled = spread_patches(map, patches, kSampledCells);
  for (auto& [row, column] : sampled) row += middle, column += middle;
  const int64_t cells = sampled.size();
  sample.resize(before + cells * map.channels);
  std::vector<double> square(cells);
  torch::stable::parallel_for(0, cells, 64, [&](int64_t begin, int64_t end) {
    map.copy_cells(sampled.data() + begin, end - begin, sample.data() + before + begin * map.channels);
    for (int64_t i = begin; i < end; i++) {
      const float* cell = sample.data() + before + i * map.channels;
      for (int64_t channel = 0; channel < map.channels; channel++) {
        square[i] += static_cast<double>(cell[channel]) * cell[channel];
      }
    }
  });
  const double mean = std::accumulate(square.begin(), square.end(), 0.0) / std::max<int64_t>(cells, 1);
  if (mean == 0) return 0;
  const double norm = std::exp2(std::round(std::log2(mean) / 2));
  for (size_t i = before; i < sample.size(); i++) sample[i] = static_cast<float>(sample[i] / norm);
  return norm;
}

// Rows of numbers in the order in which products read them: panels of neighbouring rows, zeros in the padding.
template <class Number>
struct PackedRows {
  int64_t rows, depth;
  Buffer<Number> numbers;  // [rows / panel][depth][panel]

  // Row i is from[i * row_stride + k * depth_stride] for all k below depth.
  PackedRows(const float* from, int64_t rows, int64_t row_stride, int64_t depth, int64_t depth_stride, int64_t panel)
      : rows(rows), depth(depth), numbers(round_up(rows, panel) * depth) {
    torch::stable::parallel_for(0, divide_up(rows, panel), grain_size(panel * depth), [&](int64_t begin, int64_t end) {
      for (int64_t first = begin * panel; first < end * panel; first += panel) {
        const float* row = from + first * row_stride;
        const int64_t present = std::min(panel, rows - first);
        Number* to = numbers.get() + first * depth;
        for (int64_t k = 0; k < depth; k++, row += depth_stride, to += panel) {
          for (int64_t i = 0; i < present; i++) to[i] = static_cast<Number>(row[i * row_stride]);
          for (int64_t i = present; i < panel; i++) to[i] = 0;
        }
      }
    });
  }
};

// result[i * stride + j] = <row i of left, row j of right> of packed rows. Whole panels of `right` are multiplied, and
// an even number of rows of `left`; the result has memory for them.
template <class Number>
struct ProductKernel {
  int64_t left_panel, right_panel;
  void (*multiply)(const Number* left, int64_t rows, const Number* right, int64_t columns, int64_t depth,
                   Number* result, int64_t stride);
};

// What finds the axes, for one instruction set.
struct BasisKernel {
  ProductKernel<float> products;
  ProductKernel<double> precise_products;
  float (*inner_product)(const float* left, const float* right, int64_t count);
  void (*orthonormalise)(float* vectors, int64_t begin, int64_t end, int64_t length, float* norms);
};

constexpr int64_t kRowsTogether = 96;  // rows that a thread multiplies at a time: a multiple of every left panel

// The products of all rows of left with all of right: [kRowsTogether * n][stride], where stride is a multiple of every
// right panel. A symmetric product is computed for j up to i, and the rest copied.
inline void multiply(const ProductKernel<float>& kernel, const PackedRows<float>& left, const PackedRows<float>& right,
                     float* result, int64_t stride, bool is_symmetric) {
  torch::stable::parallel_for(0, divide_up(left.rows, kRowsTogether), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kRowsTogether; i < std::min(end * kRowsTogether, left.rows); i += kRowsTogether) {
      const int64_t rows = std::min(kRowsTogether, left.rows - i);
      const int64_t columns = is_symmetric ? i + rows : right.rows;
      kernel.multiply(left.numbers.get() + i * left.depth, rows, right.numbers.get(),
                      round_up(columns, kernel.right_panel), left.depth, result + i * stride, stride);
    }
  });
  for (int64_t i = 0; is_symmetric && i < left.rows; i++) {
    for (int64_t j = 0; j < i; j++) result[j * stride + i] = result[i * stride + j];
  }
}

// Gram-Schmidt, a block of vectors after the other: once it is orthonormal, what lies in its span is taken from all
// vectors behind it.
inline void orthonormalise(const BasisKernel& kernel, float* vectors, int64_t count, int64_t length) {
  constexpr int64_t kBlock = 48;
  const ProductKernel<float>& products = kernel.products;
  std::vector<float> norms(count);
  for (int64_t i = 0; i < count; i++) {
    norms[i] = std::sqrt(kernel.inner_product(vectors + i * length, vectors + i * length, length));
  }
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t end = std::min(first + kBlock, count), size = end - first;
    kernel.orthonormalise(vectors, first, end, length, norms.data());
    float *block = vectors + first * length, *behind = vectors + end * length;
    const PackedRows<float> axes(block, size, length, length, 1, products.right_panel);
    const PackedRows<float> coordinates(block, length, 1, size, length, products.right_panel);
    torch::stable::parallel_for(0, divide_up(count - end, kRowsTogether), 1, [&](int64_t begin, int64_t until) {
      const Buffer<float> along(kRowsTogether * kBlock), parts(kRowsTogether * length);
      for (int64_t i = begin * kRowsTogether; i < std::min(until * kRowsTogether, count - end); i += kRowsTogether) {
        const int64_t rows = std::min(kRowsTogether, count - end - i);
        float* vector = behind + i * length;
        const PackedRows<float> left(vector, rows, length, length, 1, products.left_panel);
        products.multiply(left.numbers.get(), rows, axes.numbers.get(), round_up(size, products.right_panel), length,
                          along.get(), kBlock);
        const PackedRows<float> factors(along.get(), rows, kBlock, size, 1, products.left_panel);
        products.multiply(factors.numbers.get(), rows, coordinates.numbers.get(), length, size, parts.get(), length);
        for (int64_t n = 0; n < rows * length; n++) vector[n] -= parts.get()[n];
      }
    });
  }
}

// Frobenius norm of axis axis^T - 1, or more. In double precision, as the bound of bound.h is no tighter than this.
inline double deviation(const Basis& basis, const ProductKernel<double>& kernel) {
  const double rounding = 1.01 * basis.channels * 0x1p-53 * 1.01;
  const float* axis = basis.axis.data();
  const PackedRows<double> left(axis, basis.axes, basis.channels, basis.channels, 1, kernel.left_panel);
  const PackedRows<double> right(axis, basis.axes, basis.channels, basis.channels, 1, kernel.right_panel);
  std::vector<double> square(basis.axes);
  torch::stable::parallel_for(0, divide_up(basis.axes, kRowsTogether), 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kRowsTogether; first < std::min(end * kRowsTogether, basis.axes);
         first += kRowsTogether) {
      const int64_t rows = std::min(kRowsTogether, basis.axes - first);
      const int64_t columns = round_up(first + rows, kernel.right_panel);
      const Buffer<double> product(kRowsTogether * columns);
      kernel.multiply(left.numbers.get() + first * basis.channels, rows, right.numbers.get(), columns, basis.channels,
                      product.get(), columns);
      for (int64_t i = first; i < first + rows; i++) {
        for (int64_t j = 0; j <= i; j++) {
          const double off = std::abs(product.get()[(i - first) * columns + j] - (i == j)) + rounding;
          square[i] += (i == j ? 1 : 2) * off * off;
        }
      }
    }
  });
  return std::sqrt(std::accumulate(square.begin(), square.end(), 0.0)) * (1 + 1e-9);
}

// The `count` eigenvectors of a symmetric matrix with the largest eigenvalues, by subspace iteration: approximately,
// and orthonormal but for rounding. All have `length` numbers, a multiple of 16. Returns what their squares are
// stretched by.
inline std::vector<double> largest_eigenvectors(const float* matrix, int64_t length, int64_t count,
                                                const BasisKernel& kernel, Buffer<float>& vectors) {
  const ProductKernel<float>& products = kernel.products;
  const PackedRows<float> columns(matrix, length, length, length, 1, products.right_panel);
  // To begin with, the rows with the largest entries on the diagonal.
  std::vector<int64_t> order(length);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t i, int64_t j) { return matrix[i * length + i] > matrix[j * length + j]; });
  vectors = Buffer<float>(round_up(count, kRowsTogether) * length);
  Buffer<float> next(round_up(count, kRowsTogether) * length);
  for (int64_t i = 0; i < count; i++) {
    std::copy_n(matrix + order[i] * length, length, vectors.get() + i * length);
  }
  for (int i = 1; i <= kIterations; i++) {
    orthonormalise(kernel, vectors.get(), count, length);
    const PackedRows<float> left(vectors.get(), count, length, length, 1, products.left_panel);
    multiply(products, left, columns, next.get(), length, false);
    if (i < kIterations) std::swap(vectors, next);
  }
  std::vector<double> values(count);
  for (int64_t i = 0; i < count; i++) {
    values[i] = kernel.inner_product(next.get() + i * length, vectors.get() + i * length, length);
  }
  return values;
}

// The axes of `sample`, [cells][channels]: eigenvectors of its second moments. Where there are fewer cells than
// channels they are found from the cells' inner products, as combinations of cells.
inline void find_axes(const std::vector<float>& sample, const BasisKernel& kernel, Basis& basis) {
  const ProductKernel<float>& products = kernel.products;
  const int64_t channels = basis.channels, axes = basis.axes, cells = sample.size() / channels;
  const bool combines_cells = cells < channels;
  const int64_t size = combines_cells ? cells : channels, depth = combines_cells ? channels : cells;
  const int64_t length = round_up(size, 16), padded = round_up(channels, 16);
  const int64_t step = combines_cells ? channels : 1, depth_step = combines_cells ? 1 : channels;
  Buffer<float> matrix(round_up(length, kRowsTogether) * length), vectors;
  std::fill_n(matrix.get(), length * length, 0.0f);
  {
    const PackedRows<float> left(sample.data(), size, step, depth, depth_step, products.left_panel);
    const PackedRows<float> right(sample.data(), size, step, depth, depth_step, products.right_panel);
    multiply(products, left, right, matrix.get(), length, true);
  }
  std::vector<double> energy = largest_eigenvectors(matrix.get(), length, axes, kernel, vectors);
  for (double& value : energy) value /= cells;
  for (int64_t i = 0; i < size; i++) basis.energy += matrix.get()[i * length + i] / cells;
  if (combines_cells) {
    const PackedRows<float> left(vectors.get(), axes, length, cells, 1, products.left_panel);
    const PackedRows<float> right(sample.data(), channels, 1, cells, channels, products.right_panel);
    vectors = Buffer<float>(round_up(axes, kRowsTogether) * padded);
    std::fill_n(vectors.get(), axes * padded, 0.0f);  // products fill whole panels only, which may be fewer numbers
    multiply(products, left, right, vectors.get(), padded, false);
  }
  orthonormalise(kernel, vectors.get(), axes, padded);
  if (combines_cells) orthonormalise(kernel, vectors.get(), axes, padded);

  std::vector<int64_t> order(axes);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) { return energy[i] > energy[j]; });
  basis.axis.resize(axes * channels);
  for (int64_t i = 0; i < axes; i++) {
    std::copy_n(vectors.get() + order[i] * padded, channels, &basis.axis[i * channels]);
    if (i == basis.leading) basis.first_trailing_energy = energy[order[i]];
    (i < basis.leading ? basis.leading_energy : basis.trailing_energy) += energy[order[i]];
  }
  basis.deviation = deviation(basis, kernel.precise_products);
}

}  // namespace patchswap
