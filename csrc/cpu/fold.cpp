// fold and fold_backward on the CPU.
//
// fold works on a band of output rows at a time: where the patches that cover each cell come from is looked up once and
// then used for every channel, of which each thread takes some. fold_backward works one channel plane at a time, so
// that each thread owns what it adds to and the order of additions is fixed.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../dtype.h"
#include "../ops.h"
#include "grain.h"
#include "index_range.h"

namespace patchswap {
namespace {

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

// Rows of output cells: those that some patch covers, and where these patches' cells lie in the key map.
struct Band {
  int64_t first, end;                             // rows
  std::vector<int64_t> cells;                     // of the covered cells, one after the other
  std::vector<std::pair<int64_t, int64_t>> ends;  // of each covered cell: (output cell, end of its part of `cells`)
};

// The rows from `first` on that have about kMostCells cells to be read, so that these and a channel stay in the cache.
Band find_band(const FoldCall& call, const int64_t* index, int64_t first) {
  constexpr size_t kMostCells = 1 << 16;
  Band band{.first = first, .end = first};
  int64_t found[25];
  for (; band.end < call.height && band.cells.size() < kMostCells; band.end++) {
    for (int64_t x = 0; x < call.width; x++) {
      const int count = source_cells(call, index, band.end, x, found);
      if (count == 0) continue;
      band.cells.insert(band.cells.end(), found, found + count);
      band.ends.emplace_back(band.end * call.width + x, band.cells.size());
    }
  }
  return band;
}

// What a thread works on: a band of one sample, and channels of it.
struct BandShare {
  const Band& band;
  int64_t sample, begin, end;
};

// Lays out the base of a band, or zeros.
template <class Element>
void lay_base(const FoldCall& call, const BandShare& share) {
  const int64_t plane = call.height * call.width, first = share.band.first * call.width;
  const int64_t count = (share.band.end - share.band.first) * call.width;
  for (int64_t channel = share.begin; channel < share.end; channel++) {
    const int64_t at = (share.sample * call.channels + channel) * plane + first;
    Element* result = call.result.mutable_data_ptr<Element>() + at;
    if (call.base) {
      std::copy_n(call.base->const_data_ptr<Element>() + at, count, result);
    } else {
      std::fill_n(result, count, static_cast<Element>(0));
    }
  }
}

// The covered cells, from keys whose channels are planes, plane by plane.
template <class Element>
void average_in_planes(const FoldCall& call, const BandShare& share) {
  using Sum = Accumulate<Element>;
  const int64_t key_plane = call.key_height * call.key_width, plane = call.height * call.width;
  for (int64_t channel = share.begin; channel < share.end; channel++) {
    const int64_t number = share.sample * call.channels + channel;
    const Element* key = call.source.const_data_ptr<Element>() + number * key_plane;
    Element* result = call.result.mutable_data_ptr<Element>() + number * plane;
    int64_t i = 0;
    for (const auto& [cell, cells_end] : share.band.ends) {
      const int64_t patches = cells_end - i;
      Sum sum = 0;
      for (; i < cells_end; i++) sum += static_cast<Sum>(key[share.band.cells[i]]);
      result[cell] = static_cast<Element>(sum / patches);
    }
  }
}

// The same from keys whose channels lie side by side, cell by cell. Neighbouring cells write to the same cache lines of
// all planes of the result.
template <class Element>
void average_cells(const FoldCall& call, const BandShare& share) {
  using Sum = Accumulate<Element>;
  const int64_t key_plane = call.key_height * call.key_width, plane = call.height * call.width;
  const Element* keys = call.source.const_data_ptr<Element>() + share.sample * key_plane * call.channels + share.begin;
  Element* result = call.result.mutable_data_ptr<Element>() + (share.sample * call.channels + share.begin) * plane;
  std::vector<Sum> sum(share.end - share.begin);
  int64_t i = 0;
  for (const auto& [cell, cells_end] : share.band.ends) {
    const int64_t patches = cells_end - i;
    std::fill(sum.begin(), sum.end(), Sum(0));
    for (; i < cells_end; i++) {
      const Element* key = keys + share.band.cells[i] * call.channels;
      for (size_t channel = 0; channel < sum.size(); channel++) sum[channel] += static_cast<Sum>(key[channel]);
    }
    for (size_t channel = 0; channel < sum.size(); channel++) {
      result[channel * plane + cell] = static_cast<Element>(sum[channel] / patches);
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
  check_index_range("fold", call.index.const_data_ptr<int64_t>(), call.index.numel(), call.key_rows * call.key_columns);
  if (call.result.numel() == 0) return;
  with_element_type(call.source.scalar_type(), [&](auto element) {
    for (int64_t sample = 0; sample < call.batch; sample++) {
      const int64_t* index = call.index.const_data_ptr<int64_t>() + sample * call.rows * call.columns;
      for (int64_t first = 0; first < call.height;) {
        const Band band = find_band(call, index, first);
        const int64_t grain = grain_size((band.end - first) * call.width + band.cells.size());
        torch::stable::parallel_for(0, call.channels, grain, [&](int64_t begin, int64_t end) {
          const BandShare share{band, sample, begin, end};
          if (!call.is_laid) lay_base<decltype(element)>(call, share);
          if (call.source.stride(1) == 1) {
            average_cells<decltype(element)>(call, share);
          } else {
            average_in_planes<decltype(element)>(call, share);
          }
        });
        first = band.end;
      }
    }
  });
}

void fold_backward_cpu(const FoldCall& call) {
  check_index_range("fold_backward", call.index.const_data_ptr<int64_t>(), call.index.numel(),
                    call.key_rows * call.key_columns);
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
