// fold and fold_backward on the CPU.
//
// fold works one output row at a time: where the patches that cover each cell come from is looked up once and then used
// for every channel. fold_backward works one channel plane at a time, so that each thread owns what it adds to and the
// order of additions is fixed.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../dtype.h"
#include "../ops.h"
#include "grain.h"

namespace patchswap {
namespace {

void check_index_range(const FoldCall& call, const char* operation) {
  const int64_t* index = call.index.const_data_ptr<int64_t>();
  const int64_t keys = call.key_rows * call.key_columns, count = call.index.numel();
  if (count == 0) return;
  const auto [lowest, highest] = std::minmax_element(index, index + count);
  if (*lowest >= -1 && *highest < keys) return;
  std::ostringstream text;
  text << "patchswap." << operation << ": index must be from -1 to " << keys - 1 << ", the last key patch; got "
       << *lowest << " to " << *highest;
  throw std::runtime_error(text.str());
}

// Key cells (row-major offsets) that fall on output cell (y, x) of the sample whose index grid is given; at most p * p.
int source_cells(const FoldCall& call, const int64_t* index, int64_t y, int64_t x, int64_t* cells) {
  int count = 0;
  for (int64_t dy = 0; dy < call.patch_size; dy++) {
    const int64_t row = y - dy;
    if (row < 0 || row >= call.rows) continue;
    for (int64_t dx = 0; dx < call.patch_size; dx++) {
      const int64_t column = x - dx;
      if (column < 0 || column >= call.columns) continue;
      const int64_t key = index[row * call.columns + column];
      if (key < 0) continue;
      cells[count++] = (key / call.key_columns + dy) * call.key_width + key % call.key_columns + dx;
    }
  }
  return count;
}

template <class Element>
void fold_rows(const FoldCall& call, int64_t begin, int64_t end) {
  using Sum = Accumulate<Element>;
  const int64_t most = call.patch_size * call.patch_size;
  const int64_t key_plane = call.key_height * call.key_width, plane = call.height * call.width;
  std::vector<int64_t> cells(call.width * most);
  std::vector<int> counts(call.width);
  for (int64_t item = begin; item < end; item++) {
    const int64_t sample = item / call.height, y = item % call.height;
    const int64_t* index = call.index.const_data_ptr<int64_t>() + sample * call.rows * call.columns;
    for (int64_t x = 0; x < call.width; x++) counts[x] = source_cells(call, index, y, x, &cells[x * most]);
    for (int64_t channel = sample * call.channels; channel < (sample + 1) * call.channels; channel++) {
      const Element* key = call.source.const_data_ptr<Element>() + channel * key_plane;
      const Element* base =
          call.base ? call.base->const_data_ptr<Element>() + channel * plane + y * call.width : nullptr;
      Element* result = call.result.mutable_data_ptr<Element>() + channel * plane + y * call.width;
      for (int64_t x = 0; x < call.width; x++) {
        if (counts[x] == 0) {
          result[x] = base ? base[x] : static_cast<Element>(0);
          continue;
        }
        Sum sum = 0;
        for (int i = 0; i < counts[x]; i++) sum += static_cast<Sum>(key[cells[x * most + i]]);
        result[x] = static_cast<Element>(sum / counts[x]);
      }
    }
  }
}

template <class Element>
void fold_backward_planes(const FoldCall& call, const std::vector<int>& counts, int64_t begin, int64_t end) {
  using Sum = Accumulate<Element>;
  const int64_t key_plane = call.key_height * call.key_width, plane = call.height * call.width;
  std::vector<Sum> total(key_plane), share(plane);
  for (int64_t channel = begin; channel < end; channel++) {
    const int64_t sample = channel / call.channels;
    const int64_t* index = call.index.const_data_ptr<int64_t>() + sample * call.rows * call.columns;
    const Element* grad = call.source.const_data_ptr<Element>() + channel * plane;
    for (int64_t cell = 0; cell < plane; cell++) {
      share[cell] = static_cast<Sum>(grad[cell]) / std::max(1, counts[sample * plane + cell]);
    }
    std::fill(total.begin(), total.end(), Sum(0));
    for (int64_t row = 0; row < call.rows; row++) {
      for (int64_t column = 0; column < call.columns; column++) {
        const int64_t key = index[row * call.columns + column];
        if (key < 0) continue;
        const int64_t to = key / call.key_columns * call.key_width + key % call.key_columns;
        const int64_t from = row * call.width + column;
        for (int64_t dy = 0; dy < call.patch_size; dy++) {
          for (int64_t dx = 0; dx < call.patch_size; dx++) {
            total[to + dy * call.key_width + dx] += share[from + dy * call.width + dx];
          }
        }
      }
    }
    Element* result = call.result.mutable_data_ptr<Element>() + channel * key_plane;
    for (int64_t cell = 0; cell < key_plane; cell++) result[cell] = static_cast<Element>(total[cell]);
  }
}

}  // namespace

void fold_cpu(const FoldCall& call) {
  check_index_range(call, "fold");
  if (call.result.numel() == 0) return;
  const int64_t grain = grain_size(call.channels * call.width * call.patch_size * call.patch_size);
  with_element_type(call.source.scalar_type(), [&](auto element) {
    torch::stable::parallel_for(0, call.batch * call.height, grain,
                                [&](int64_t begin, int64_t end) { fold_rows<decltype(element)>(call, begin, end); });
  });
}

void fold_backward_cpu(const FoldCall& call) {
  check_index_range(call, "fold_backward");
  if (call.result.numel() == 0) return;
  std::vector<int> counts(call.batch * call.height * call.width);
  const int64_t patch_cells = call.patch_size * call.patch_size;
  const int64_t row_grain = grain_size(call.width * patch_cells);
  const int64_t plane_grain = grain_size(call.rows * call.columns * patch_cells);
  torch::stable::parallel_for(0, call.batch * call.height, row_grain, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> cells(patch_cells);
    for (int64_t item = begin; item < end; item++) {
      const int64_t* index = call.index.const_data_ptr<int64_t>() + item / call.height * call.rows * call.columns;
      for (int64_t x = 0; x < call.width; x++) {
        counts[item * call.width + x] = source_cells(call, index, item % call.height, x, cells.data());
      }
    }
  });
  with_element_type(call.source.scalar_type(), [&](auto element) {
    torch::stable::parallel_for(0, call.batch * call.channels, plane_grain, [&](int64_t begin, int64_t end) {
      fold_backward_planes<decltype(element)>(call, counts, begin, end);
    });
  });
}

}  // namespace patchswap
