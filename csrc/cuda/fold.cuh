// fold and its gradient on the GPU, first form. Not measured on a GPU yet.
//
// Both are gathers: one thread per output number, which looks up and adds all that belongs there in a fixed order. The
// gradient needs, for each key patch, the queries that chose it: index sorted stably, and where each key's run begins.
//
// Torch-free, and runs on the host too; see match_direct.cuh.
#pragma once

#include "match_direct.cuh"

namespace patchswap {

template <class Element>
struct FoldParameters {
  // `source` and `result` of fold: key [B][C][key_height][key_width] and [B][C][height][width]; of the gradient:
  // grad_output [B][C][height][width] and [B][C][key_height][key_width].
  const int64_t* index;  // [B][rows][columns]
  const Element* source;
  const Element* base;  // [B][C][height][width] or null; fold only
  Element* result;
  int64_t batch, channels;
  int64_t height, width, key_height, key_width;
  int64_t rows, columns, key_rows, key_columns;
  // Gradient only:
  const int64_t* sorted_index;  // [B][rows * columns] ascending within each sample
  const int64_t* order;         // [B][rows * columns] where in index each entry of sorted_index stood
  int64_t* run_begin;           // [B][keys + 1] where the run of each key starts in sorted_index
  int32_t* cover_count;         // [B][height][width] how many matched patches cover each cell

  PATCHSWAP_HOST_DEVICE int64_t keys() const { return key_rows * key_columns; }
  PATCHSWAP_HOST_DEVICE bool is_matched(int64_t key) const { return key >= 0 && key < keys(); }
};

// One thread per number of the (B, C, height, width) result.
template <int P, class Sum, class Element>
struct Fold {
  FoldParameters<Element> p;

  PATCHSWAP_HOST_DEVICE void operator()(int64_t thread) const {
    const int64_t x = thread % p.width, y = thread / p.width % p.height, plane = thread / p.width / p.height;
    const int64_t* index = p.index + plane / p.channels * p.rows * p.columns;
    const Element* key_cells = p.source + plane * p.key_height * p.key_width;
    Sum sum = 0;
    int count = 0;
    for (int dy = 0; dy < P; dy++) {
      for (int dx = 0; dx < P; dx++) {
        const int64_t row = y - dy, column = x - dx;
        if (row < 0 || row >= p.rows || column < 0 || column >= p.columns) continue;
        const int64_t key = index[row * p.columns + column];
        if (!p.is_matched(key)) continue;
        sum += static_cast<Sum>(key_cells[(key / p.key_columns + dy) * p.key_width + key % p.key_columns + dx]);
        count++;
      }
    }
    if (count > 0) {
      p.result[thread] = static_cast<Element>(sum / static_cast<Sum>(count));
    } else {
      p.result[thread] = p.base != nullptr ? p.base[thread] : static_cast<Element>(0.0f);
    }
  }
};

// One thread per cell of [B][height][width].
template <int P, class Element>
struct CoverCount {
  FoldParameters<Element> p;

  PATCHSWAP_HOST_DEVICE void operator()(int64_t thread) const {
    const int64_t x = thread % p.width, y = thread / p.width % p.height, sample = thread / p.width / p.height;
    int32_t count = 0;
    for (int dy = 0; dy < P; dy++) {
      for (int dx = 0; dx < P; dx++) {
        const int64_t row = y - dy, column = x - dx;
        if (row < 0 || row >= p.rows || column < 0 || column >= p.columns) continue;
        count += p.is_matched(p.index[(sample * p.rows + row) * p.columns + column]);
      }
    }
    p.cover_count[thread] = count;
  }
};

// One thread per entry of run_begin: the first place in the sorted index that is not below this key.
template <class Element>
struct RunBegin {
  FoldParameters<Element> p;

  PATCHSWAP_HOST_DEVICE void operator()(int64_t thread) const {
    const int64_t sample = thread / (p.keys() + 1), key = thread % (p.keys() + 1), patches = p.rows * p.columns;
    const int64_t* sorted = p.sorted_index + sample * patches;
    int64_t low = 0, high = patches;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (sorted[middle] < key) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    p.run_begin[thread] = low;
  }
};

// One thread per number of the (B, C, key_height, key_width) gradient.
template <int P, class Sum, class Element>
struct FoldBackward {
  FoldParameters<Element> p;

  PATCHSWAP_HOST_DEVICE void operator()(int64_t thread) const {
    const int64_t x = thread % p.key_width, y = thread / p.key_width % p.key_height;
    const int64_t plane = thread / p.key_width / p.key_height, sample = plane / p.channels;
    const int64_t* order = p.order + sample * p.rows * p.columns;
    const int64_t* run_begin = p.run_begin + sample * (p.keys() + 1);
    const int32_t* cover_count = p.cover_count + sample * p.height * p.width;
    const Element* grad = p.source + plane * p.height * p.width;
    Sum sum = 0;
    for (int dy = 0; dy < P; dy++) {
      for (int dx = 0; dx < P; dx++) {
        const int64_t row = y - dy, column = x - dx;
        if (row < 0 || row >= p.key_rows || column < 0 || column >= p.key_columns) continue;
        const int64_t key = row * p.key_columns + column;
        for (int64_t i = run_begin[key]; i < run_begin[key + 1]; i++) {
          const int64_t cell = (order[i] / p.columns + dy) * p.width + order[i] % p.columns + dx;
          sum += static_cast<Sum>(grad[cell]) / static_cast<Sum>(cover_count[cell]);
        }
      }
    }
    p.result[thread] = static_cast<Element>(sum);
  }
};

}  // namespace patchswap
