// The steps of convolve: transforming kernels and windows, multiplying, and going back to tiles. Compiled for each
// instruction set: see each_instruction_set.h.

#include "registers.h"

// Steps are inlined, as GCC then keeps their vectors in registers.
template <int VectorBytes = kVectorBytes>
struct Filter : Registers<float, VectorBytes> {
  using Base = Registers<float, VectorBytes>;
  using Base::at;
  using Base::kLanes;
  using Base::load;
  using typename Base::Vector;
  static constexpr int kRows = VectorBytes == 64 ? 12 : 6;  // tiles whose sums are in registers, times two vectors

  // B' x
  [[gnu::always_inline]] static void to_places(const Vector (&x)[6], Vector (&result)[6]) {
    const Vector even = x[4] - 4 * x[2], odd = x[3] - 4 * x[1], difference = x[4] - x[2], twice = 2 * (x[3] - x[1]);
    result[0] = 4 * x[0] - 5 * x[2] + x[4];
    result[1] = even + odd;
    result[2] = even - odd;
    result[3] = difference + twice;
    result[4] = difference - twice;
    result[5] = 4 * x[1] - 5 * x[3] + x[5];
  }

  // G x
  [[gnu::always_inline]] static void kernel_to_places(const Vector (&x)[3], Vector (&result)[6]) {
    const Vector outer = (x[0] + x[2]) * (-1.0f / 6), inner = x[1] * (1.0f / 6);
    const Vector far = x[0] * (1.0f / 24) + x[2] * (1.0f / 6), near = x[1] * (1.0f / 12);
    result[0] = x[0] * 0.25f;
    result[1] = outer - inner;
    result[2] = outer + inner;
    result[3] = far + near;
    result[4] = far - near;
    result[5] = x[2];
  }

  // A' x
  [[gnu::always_inline]] static void to_tile(const Vector (&x)[6], Vector (&result)[4]) {
    const Vector sum = x[1] + x[2], difference = x[1] - x[2], far_sum = x[3] + x[4], far_difference = x[3] - x[4];
    result[0] = x[0] + sum + far_sum;
    result[1] = difference + 2 * far_difference;
    result[2] = sum + 4 * far_sum;
    result[3] = difference + 8 * far_difference + x[5];
  }

  // The kernels of one vector of output channels, some channels at a time, so that their lines are read once.
  static void transform_kernels(const Convolution& task, int64_t vector) {
    constexpr int64_t kAtOnce = 16;
    const int64_t* strides = task.weight_strides;
    const int64_t kept = std::min<int64_t>(kLanes, task.outputs - vector * kLanes);
    float numbers[kAtOnce][3][3][kLanes] = {};
    for (int64_t first = 0; first < task.channels; first += kAtOnce) {
      const int64_t count = std::min(kAtOnce, task.channels - first);
      for (int64_t lane = 0; lane < kept; lane++) {
        const float* from = task.weight + (vector * kLanes + lane) * strides[0] + first * strides[1];
        for (int y = 0; y < 3; y++) {
          for (int x = 0; x < 3; x++) {
            const float* tap = from + y * strides[2] + x * strides[3];
            for (int64_t i = 0; i < count; i++) numbers[i][y][x][lane] = tap[i * strides[1]];
          }
        }
      }
      for (int64_t i = 0; i < count; i++) {
        Vector rows[3][kWindow], places[kWindow];
        for (int y = 0; y < 3; y++) {
          const Vector row[3] = {load(numbers[i][y][0]), load(numbers[i][y][1]), load(numbers[i][y][2])};
          kernel_to_places(row, rows[y]);
        }
        for (int column = 0; column < kWindow; column++) {
          const Vector taps[3] = {rows[0][column], rows[1][column], rows[2][column]};
          kernel_to_places(taps, places);
          for (int row = 0; row < kWindow; row++) {
            float* place = task.kernels + (row * kWindow + column) * task.kernel_stride();
            at(place + (vector * task.channels + first + i) * kLanes) = places[row];
          }
        }
      }
    }
  }

  // The places of the windows of the channels from `channel` on, as many as there are lanes.
  [[gnu::always_inline]] static void transform_window(const float* const (&cells)[kPlaces], int64_t channel,
                                                      float* windows, int64_t stride) {
    Vector columns[kWindow][kWindow];
#pragma GCC unroll 6
    for (int j = 0; j < kWindow; j++) {
      Vector x[kWindow];
#pragma GCC unroll 6
      for (int i = 0; i < kWindow; i++) x[i] = load(cells[i * kWindow + j] + channel);
      to_places(x, columns[j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < kWindow; i++) {
      Vector x[kWindow], places[kWindow];
#pragma GCC unroll 6
      for (int j = 0; j < kWindow; j++) x[j] = columns[j][i];
      to_places(x, places);
#pragma GCC unroll 6
      for (int j = 0; j < kWindow; j++) at(windows + (i * kWindow + j) * stride) = places[j];
    }
  }

  // Where the cells of a tile's window lie.
  [[gnu::always_inline]] static void find_cells(const Convolution& task, const Source& source, int64_t tile,
                                                const float* (&cells)[kPlaces]) {
    const Corner corner(task, tile);
    for (int i = 0; i < kWindow; i++) {
      const int64_t row = corner.row + (i - 1) * task.dilation, y = std::clamp<int64_t>(row, 0, task.height - 1);
      for (int j = 0; j < kWindow; j++) {
        const int64_t column = corner.column + (j - 1) * task.dilation;
        const int64_t x = std::clamp<int64_t>(column, 0, task.width - 1);
        const bool is_inside = task.replicate || (y == row && x == column);
        cells[i * kWindow + j] = is_inside ? source.at(corner.sample, y, x) : task.zeros;
      }
    }
  }

  // sums[i][j] = sum over channels of windows[i][channel] * kernels[j][channel], for Rows tiles and Vectors vectors.
  template <int Rows, int Vectors>
  [[gnu::always_inline]] static void multiply(const float* windows, int64_t window_step, const float* kernels,
                                              int64_t kernel_step, int64_t channels, float* sums) {
    Vector sum[Rows][Vectors] = {};
    for (int64_t channel = 0; channel < channels; channel++, windows++, kernels += kLanes) {
      Vector right[Vectors];
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; j++) right[j] = load(kernels + j * kernel_step);
#pragma GCC unroll 12
      for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 2
        for (int j = 0; j < Vectors; j++) sum[i][j] += windows[i * window_step] * right[j];
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; j++) at(sums + (i * 2 + j) * kLanes) = sum[i][j];
    }
  }

  template <int Rows, int Vectors>
  [[gnu::always_inline]] static void multiply_rest(int64_t tiles, const float* windows, int64_t window_step,
                                                   const float* kernels, int64_t kernel_step, int64_t channels,
                                                   float* sums) {
    if constexpr (Rows > 1) {
      if (tiles < Rows)
        return multiply_rest<Rows - 1, Vectors>(tiles, windows, window_step, kernels, kernel_step, channels, sums);
    }
    multiply<Rows, Vectors>(windows, window_step, kernels, kernel_step, channels, sums);
  }

  // The sums of all places, for one or two vectors of output channels.
  template <int Vectors>
  [[gnu::always_inline]] static void add_up(const Convolution& task, int64_t vector, int64_t tiles,
                                            const float* windows, float* sums) {
    const int64_t kernel_step = task.channels * kLanes;
    for (int place = 0; place < kPlaces; place++) {
      const int64_t first = task.first_channel(place), channels = task.channels - first;
      const float* from = windows + place * task.window_stride() + first;
      const float* kernels = task.kernels + place * task.kernel_stride() + (vector * task.channels + first) * kLanes;
      float* to = sums + place * task.sum_stride();
      int64_t tile = 0;
      for (; tile + kRows <= tiles; tile += kRows) {
        multiply<kRows, Vectors>(from + tile * task.channels, task.channels, kernels, kernel_step, channels,
                                 to + tile * 2 * kLanes);
      }
      if (tile < tiles) {
        multiply_rest<kRows - 1, Vectors>(tiles - tile, from + tile * task.channels, task.channels, kernels,
                                          kernel_step, channels, to + tile * 2 * kLanes);
      }
    }
  }

  // A tile's results for one vector of output channels.
  [[gnu::always_inline]] static void finish_tile(const Convolution& task, int64_t vector, int64_t tile,
                                                 const float* sums) {
    const int64_t stride = task.sum_stride(), first = vector * kLanes;
    const int64_t kept = std::min<int64_t>(kLanes, task.outputs - first);
    Vector columns[kWindow][kTile];
#pragma GCC unroll 6
    for (int j = 0; j < kWindow; j++) {
      Vector x[kWindow];
#pragma GCC unroll 6
      for (int i = 0; i < kWindow; i++) x[i] = load(sums + (i * kWindow + j) * stride);
      to_tile(x, columns[j]);
    }
    float numbers[kLanes] = {};
    if (task.bias) std::copy_n(task.bias + first, kept, numbers);
    const Vector bias = load(numbers);
    const Corner corner(task, tile);
    const int64_t cell = task.dilation * task.outputs, row = task.width * cell;
    float* to =
        task.result + ((corner.sample * task.height + corner.row) * task.width + corner.column) * task.outputs + first;
    const int64_t rows = std::min<int64_t>(kTile, divide_up(task.height - corner.row, task.dilation));
    const int64_t wide = std::min<int64_t>(kTile, divide_up(task.width - corner.column, task.dilation));
    for (int i = 0; i < rows; i++, to += row) {
      Vector x[kWindow], cells[kTile];
#pragma GCC unroll 6
      for (int j = 0; j < kWindow; j++) x[j] = columns[j][i];
      to_tile(x, cells);
#pragma GCC unroll 4
      for (int j = 0; j < kTile; j++) {
        const Vector value = cells[j] + bias, leaked = value * task.slope;
        cells[j] = value > 0 ? value : leaked;
      }
      for (int j = 0; j < wide; j++) {
        if (kept == kLanes) {
          at(to + j * cell) = cells[j];
        } else {
          at(numbers) = cells[j];
          std::copy_n(numbers, kept, to + j * cell);
        }
      }
    }
  }

  // The results of the tiles of a chunk.
  static void convolve(const Convolution& task, int64_t first, int64_t end, float* memory) {
    const int64_t stride = task.window_stride(), tiles = end - first;
    float* sums = memory + kPlaces * stride;
    for (int64_t tile = first; tile < end; tile++) {
      float* windows = memory + (tile - first) * task.channels;
      for (const Source& source : task.sources) {
        const float* cells[kPlaces];
        if (source.channels) find_cells(task, source, tile, cells);
        int64_t channel = 0;
        for (; channel + kLanes <= source.channels; channel += kLanes)
          transform_window(cells, channel, windows + channel, stride);
        for (; channel < source.channels; channel++)
          Filter<4>::transform_window(cells, channel, windows + channel, stride);
        windows += source.channels;
      }
    }
    for (int64_t vector = 0; vector < task.vectors(); vector += 2) {
      const int count = vector + 1 < task.vectors() ? 2 : 1;
      if (count == 2) {
        add_up<2>(task, vector, tiles, memory, sums);
      } else {
        add_up<1>(task, vector, tiles, memory, sums);
      }
      for (int64_t tile = first; tile < end; tile++) {
        for (int j = 0; j < count; j++) finish_tile(task, vector + j, tile, sums + ((tile - first) * 2 + j) * kLanes);
      }
    }
  }
};

inline FilterKernel filter_kernel() { return {Filter<>::kLanes, &Filter<>::transform_kernels, &Filter<>::convolve}; }
