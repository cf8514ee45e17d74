// convolve on the CPU: 3x3 convolutions by minimal filtering, F(4x4, 3x3) of Lavin & Gray 2016 ("Fast Algorithms for
// Convolutional Neural Networks", section 4).
//
// The result is cut into tiles of 4x4 cells, each of which sees a window of 6x6. With fixed small matrices A, B and G,
//     tile = A' (sum over channels of (G kernel G') * (B' window B)) A,    * place by place,
// so that each of the 36 places of a window is a matrix product over the channels, of tiles by output channels: 36
// multiplications for 16 results, which take 144 otherwise.
//
// A dilated kernel sees every d-th row and column: d * d interleaved maps, each with tiles of its own.
//
// Where the map is doubled, rows 1 and 2 of a window are the same, as are 3 and 4, so that row 2 of B' window is zero;
// so are columns, and 11 of the 36 places of its channels are left out.
//
// Threads take blocks of tiles. A block's windows are transformed once; then, for one or two vectors of output channels
// after the other, come the 36 products and the way back to tiles, while these products are in the cache.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

#include "../ops.h"
#include "buffer.h"
#include "instruction_set.h"
#include "schedule.h"
#include "walk.h"

namespace patchswap {
namespace {

constexpr int kTile = 4, kWindow = 6, kPlaces = kWindow * kWindow;
// Bytes of transformed windows of a block: larger blocks read the kernels less often, and leave the cache.
constexpr int64_t kBlockBytes = 384 << 10;

// Channels that lie side by side, of a map as large as the result or, doubled, half as high and wide.
struct Source {
  const float* cells = nullptr;
  int64_t channels = 0, sample_stride = 0, row_stride = 0, column_stride = 0;
  int shift = 0;  // 1 where it is doubled

  const float* at(int64_t sample, int64_t row, int64_t column) const {
    return cells + sample * sample_stride + (row >> shift) * row_stride + (column >> shift) * column_stride;
  }
};

struct Convolution {
  Source sources[2];
  int64_t channels;  // of both sources
  int64_t batch, height, width, dilation;
  int64_t tile_rows, tile_columns;  // of one of the interleaved maps
  int64_t outputs, lanes;           // output channels, and how many of them are a vector
  int64_t most_tiles;               // in a block
  bool replicate;                   // beyond the border: the outermost cells, else zeros
  float slope;                      // of the leaky ReLU
  const float* weight;              // (outputs, channels, 3, 3)
  int64_t weight_strides[4];
  const float* bias;   // [outputs] or null
  const float* zeros;  // [channels]
  float* kernels;      // [kPlaces][kernel_stride()], of it [vectors][channels][lanes]
  float* result;       // [batch][height][width][outputs]

  int64_t vectors() const { return divide_up(outputs, lanes); }
  int64_t tiles() const { return batch * dilation * dilation * tile_rows * tile_columns; }
  // Between places; a little more than needed, as numbers a power of two apart share few lines of the cache.
  int64_t kernel_stride() const { return vectors() * channels * lanes + 16; }
  int64_t window_stride() const { return most_tiles * channels + 16; }
  int64_t sum_stride() const { return most_tiles * 2 * lanes + 16; }
  int64_t block_numbers() const { return kPlaces * (window_stride() + sum_stride()); }
  // The first channel that counts at a place.
  int64_t first_channel(int place) const {
    return sources[0].shift && (place / kWindow == 2 || place % kWindow == 2) ? sources[0].channels : 0;
  }
};

// A tile's first cell; the others are `dilation` rows and columns apart.
struct Corner {
  int64_t sample, row, column;

  Corner(const Convolution& task, int64_t tile) {
    column = tile % task.tile_columns * kTile * task.dilation;
    tile /= task.tile_columns;
    row = tile % task.tile_rows * kTile * task.dilation;
    tile /= task.tile_rows;
    column += tile % task.dilation;
    tile /= task.dilation;
    row += tile % task.dilation;
    sample = tile / task.dilation;
  }
};

template <int VectorBytes>
struct Filter : Registers<float, VectorBytes> {
  using Base = Registers<float, VectorBytes>;
  using Base::at;
  using Base::kLanes;
  using Base::load;
  using typename Base::Vector;
  static constexpr int kRows = VectorBytes == 64 ? 12 : 6;  // tiles in a block of registers, times two vectors

  // B' x
  static PATCHSWAP_INLINE void to_places(const Vector (&x)[6], Vector (&result)[6]) {
    const Vector even = x[4] - 4 * x[2], odd = x[3] - 4 * x[1], difference = x[4] - x[2], twice = 2 * (x[3] - x[1]);
    result[0] = 4 * x[0] - 5 * x[2] + x[4];
    result[1] = even + odd;
    result[2] = even - odd;
    result[3] = difference + twice;
    result[4] = difference - twice;
    result[5] = 4 * x[1] - 5 * x[3] + x[5];
  }

  // G x
  static PATCHSWAP_INLINE void kernel_to_places(const Vector (&x)[3], Vector (&result)[6]) {
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
  static PATCHSWAP_INLINE void to_tile(const Vector (&x)[6], Vector (&result)[4]) {
    const Vector sum = x[1] + x[2], difference = x[1] - x[2], far_sum = x[3] + x[4], far_difference = x[3] - x[4];
    result[0] = x[0] + sum + far_sum;
    result[1] = difference + 2 * far_difference;
    result[2] = sum + 4 * far_sum;
    result[3] = difference + 8 * far_difference + x[5];
  }

  // The kernels of one vector of output channels, some channels at a time, so that their lines are read once.
  static PATCHSWAP_INLINE void transform_kernels(const Convolution& task, int64_t vector) {
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
  static PATCHSWAP_INLINE void transform_window(const float* const (&cells)[kPlaces], int64_t channel, float* windows,
                                                int64_t stride) {
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
  static PATCHSWAP_INLINE void find_cells(const Convolution& task, const Source& source, int64_t tile,
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
  static PATCHSWAP_INLINE void multiply(const float* windows, int64_t window_step, const float* kernels,
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
  static PATCHSWAP_INLINE void multiply_rest(int64_t tiles, const float* windows, int64_t window_step,
                                             const float* kernels, int64_t kernel_step, int64_t channels, float* sums) {
    if constexpr (Rows > 1) {
      if (tiles < Rows)
        return multiply_rest<Rows - 1, Vectors>(tiles, windows, window_step, kernels, kernel_step, channels, sums);
    }
    multiply<Rows, Vectors>(windows, window_step, kernels, kernel_step, channels, sums);
  }

  // The sums of all places, for one or two vectors of output channels.
  template <int Vectors>
  static PATCHSWAP_INLINE void add_up(const Convolution& task, int64_t vector, int64_t tiles, const float* windows,
                                      float* sums) {
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
  static PATCHSWAP_INLINE void finish_tile(const Convolution& task, int64_t vector, int64_t tile, const float* sums) {
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

  static PATCHSWAP_INLINE void block(const Convolution& task, int64_t first, int64_t end, float* memory) {
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

// The filter compiled for one instruction set.
struct FilterKernel {
  int64_t lanes;
  void (*transform_kernels)(const Convolution& task, int64_t vector);
  void (*block)(const Convolution& task, int64_t first, int64_t end, float* memory);
};

#define PATCHSWAP_FILTER_KERNEL(name, target, bytes)                                               \
  struct name {                                                                                    \
    target static void transform_kernels(const Convolution& task, int64_t vector) {                \
      Filter<bytes>::transform_kernels(task, vector);                                              \
    }                                                                                              \
    target static void block(const Convolution& task, int64_t first, int64_t end, float* memory) { \
      Filter<bytes>::block(task, first, end, memory);                                              \
    }                                                                                              \
    static FilterKernel kernel() { return {bytes / sizeof(float), &transform_kernels, &block}; }   \
  };

#if defined(__x86_64__)
PATCHSWAP_FILTER_KERNEL(FilterAvx512, __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"))), 64)
PATCHSWAP_FILTER_KERNEL(FilterAvx2, __attribute__((target("avx2,fma"))), 32)
#endif
PATCHSWAP_FILTER_KERNEL(FilterGeneric, , 16)

FilterKernel filter_kernel() {
#if defined(__x86_64__)
  if (instruction_set() >= InstructionSet::kAvx512) return FilterAvx512::kernel();
  if (instruction_set() == InstructionSet::kAvx2) return FilterAvx2::kernel();
#endif
  return FilterGeneric::kernel();
}

Source source_of(const Tensor& cells, int shift) {
  return {cells.const_data_ptr<float>(), cells.size(3), cells.stride(0), cells.stride(1), cells.stride(2), shift};
}

}  // namespace

void convolve_cpu(const ConvolveCall& call) {
  const FilterKernel kernel = filter_kernel();
  Convolution task{.channels = call.weight.size(1),
                   .batch = call.result.size(0),
                   .height = call.result.size(1),
                   .width = call.result.size(2),
                   .dilation = call.dilation,
                   .tile_rows = divide_up(call.result.size(1), kTile * call.dilation),
                   .tile_columns = divide_up(call.result.size(2), kTile * call.dilation),
                   .outputs = call.result.size(3),
                   .lanes = kernel.lanes,
                   .most_tiles = 0,
                   .replicate = call.replicate,
                   .slope = static_cast<float>(call.slope),
                   .weight = call.weight.const_data_ptr<float>(),
                   .weight_strides = {},
                   .bias = call.bias ? call.bias->const_data_ptr<float>() : nullptr,
                   .zeros = nullptr,
                   .kernels = nullptr,
                   .result = call.result.mutable_data_ptr<float>()};
  if (call.result.numel() == 0) return;
  task.sources[0] = source_of(call.features, call.doubled);
  if (call.skip) task.sources[1] = source_of(*call.skip, 0);
  for (int i = 0; i < 4; i++) task.weight_strides[i] = call.weight.stride(i);
  const Buffer<float> zeros(task.channels), kernels(kPlaces * task.kernel_stride());
  std::fill_n(zeros.get(), task.channels, 0.0f);
  task.zeros = zeros.get();
  task.kernels = kernels.get();
  const int64_t operations = task.tiles() * kPlaces * task.channels * task.outputs;
  const int64_t threads = threads_worth(operations);
  // Blocks of at most kBlockBytes, and enough of them that threads end together.
  constexpr int64_t kBlocksPerThread = 8, kFewestTiles = 24;
  const int64_t tile_bytes = kPlaces * task.channels * sizeof(float);
  const int64_t fitting = kBlockBytes / std::max<int64_t>(1, tile_bytes);
  const int64_t even = divide_up(task.tiles(), threads * kBlocksPerThread);
  task.most_tiles = round_up(std::max(kFewestTiles, std::min(fitting, even)), kFewestTiles);

  torch::stable::parallel_for(0, task.vectors(), grain_size(task.channels * task.lanes * 200),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; i++) kernel.transform_kernels(task, i);
                              });
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t worker, int64_t worker_end) {
    for (; worker < worker_end; worker++) {
      const Buffer<float> memory(task.block_numbers());
      for (int64_t first = task.most_tiles * next++; first < task.tiles(); first = task.most_tiles * next++) {
        kernel.block(task, first, std::min(task.tiles(), first + task.most_tiles), memory.get());
      }
    }
  });
}

}  // namespace patchswap
