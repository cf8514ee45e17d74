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
// Threads take chunks of tiles. The windows of a chunk are transformed once. Then, for one or two vectors of output
// channels at a time, the 36 products are computed and transformed to tiles, while they are in the cache.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

#include "../ops.h"
#include "buffer.h"
#include "instruction_set.h"
#include "schedule.h"

namespace patchswap {
namespace {

constexpr int kTile = 4, kWindow = 6, kPlaces = kWindow * kWindow;
// Bytes of transformed windows of a chunk: larger chunks read the kernels less often, and leave the cache.
constexpr int64_t kChunkBytes = 384 << 10;

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
  int64_t most_tiles;               // in a chunk
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
  // Between places. Strides of a power of two would share few lines of the cache, so 16 numbers are added.
  int64_t kernel_stride() const { return vectors() * channels * lanes + 16; }
  int64_t window_stride() const { return most_tiles * channels + 16; }
  int64_t sum_stride() const { return most_tiles * 2 * lanes + 16; }
  int64_t chunk_numbers() const { return kPlaces * (window_stride() + sum_stride()); }
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

// The filter compiled for one instruction set.
struct FilterKernel {
  int64_t lanes;
  void (*transform_kernels)(const Convolution& task, int64_t vector);
  void (*convolve)(const Convolution& task, int64_t first, int64_t end, float* memory);
};

}  // namespace
}  // namespace patchswap

#define PATCHSWAP_KERNELS "kernels/convolve.h"
#include "each_instruction_set.h"

namespace patchswap {
namespace {

FilterKernel filter_kernel() {
#if defined(__x86_64__)
  if (instruction_set() >= InstructionSet::kAvx512) return avx512::filter_kernel();
  if (instruction_set() == InstructionSet::kAvx2) return avx2::filter_kernel();
#endif
  return generic::filter_kernel();
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
  // Chunks of at most kChunkBytes, and enough of them that threads end together.
  constexpr int64_t kChunksPerThread = 8, kFewestTiles = 24;
  const int64_t tile_bytes = kPlaces * task.channels * sizeof(float);
  const int64_t fitting = kChunkBytes / std::max<int64_t>(1, tile_bytes);
  const int64_t even = divide_up(task.tiles(), threads * kChunksPerThread);
  task.most_tiles = round_up(std::max(kFewestTiles, std::min(fitting, even)), kFewestTiles);

  torch::stable::parallel_for(0, task.vectors(), grain_size(task.channels * task.lanes * 200),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; i++) kernel.transform_kernels(task, i);
                              });
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t worker, int64_t worker_end) {
    for (; worker < worker_end; worker++) {
      const Buffer<float> memory(task.chunk_numbers());
      for (int64_t first = task.most_tiles * next++; first < task.tiles(); first = task.most_tiles * next++) {
        kernel.convolve(task, first, std::min(task.tiles(), first + task.most_tiles), memory.get());
      }
    }
  });
}

}  // namespace patchswap
