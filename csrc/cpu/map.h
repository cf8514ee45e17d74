// One sample's feature map as match sees it, and the check that all of it is finite.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "../dtype.h"
#include "../metric.h"
#include "grain.h"

namespace patchswap {

// A (C, H, W) map of any strides, with the patches that take part. Rows and columns count patches. A patch's index is
// the caller's; arrange.h may have exchanged rows and columns.
template <class Element>
struct Map {
  const char* name;
  const Element* features;
  const bool* mask;  // by index, or null for all
  int64_t channels, height, width;
  int64_t channel_stride, row_stride, column_stride;
  int64_t rows, columns, patch_size;
  int64_t index_row_stride, index_column_stride;  // from one patch's index to the next
  Metric metric = Metric::kNcc;
  const Accumulate<Element>* weight = nullptr;  // of a key by index, or null for 1

  // Calls visit(number, column) for all numbers of a cell row, in the order of memory where that is known.
  template <class Visit>
  void for_each_number(int64_t row, const Visit& visit) const {
    const Element* from = features + row * row_stride;
    if (channel_stride == 1) {
      for (int64_t column = 0; column < width; column++, from += column_stride) {
        for (int64_t channel = 0; channel < channels; channel++) visit(from[channel], column);
      }
    } else if (column_stride == 1) {
      for (int64_t channel = 0; channel < channels; channel++, from += channel_stride) {
        for (int64_t column = 0; column < width; column++) visit(from[column], column);
      }
    } else {
      for (int64_t channel = 0; channel < channels; channel++, from += channel_stride) {
        for (int64_t column = 0; column < width; column++) visit(from[column * column_stride], column);
      }
    }
  }

  // The numbers of cells, (row, column) each, as [cells][channels]. A few channels at a time: where channels are
  // planes, each plane is read while its lines are in the cache.
  void copy_cells(const std::pair<int64_t, int64_t>* cells, int64_t count, float* to) const {
    constexpr int64_t kChannels = 16;
    for (int64_t first = 0; first < channels; first += kChannels) {
      const int64_t end = std::min(first + kChannels, channels);
      for (int64_t i = 0; i < count; i++) {
        const Element* cell = features + cells[i].first * row_stride + cells[i].second * column_stride;
        for (int64_t channel = first; channel < end; channel++) {
          to[i * channels + channel] = static_cast<float>(cell[channel * channel_stride]);
        }
      }
    }
  }

  int64_t index(int64_t row, int64_t column) const { return row * index_row_stride + column * index_column_stride; }
  bool takes_part_at(int64_t index) const { return !mask || mask[index]; }
  bool takes_part(int64_t row, int64_t column) const { return takes_part_at(index(row, column)); }
  int64_t patches_taking_part() const { return mask ? std::count(mask, mask + rows * columns, true) : rows * columns; }
};

// Whether all squared patch norms are finite in Sum, by summing every one in float64, a strip of rows at a time.
template <class Sum, class Element>
bool norms_are_finite(const Map<Element>& map) {
  std::atomic<bool> finite = true;
  constexpr int64_t kStrip = 16;
  torch::stable::parallel_for(0, (map.height + kStrip - 1) / kStrip, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kStrip; first < std::min(end * kStrip, map.height); first += kStrip) {
      const int64_t last = std::min(first + kStrip + map.patch_size - 1, map.height);
      std::vector<double> squares((last - first) * map.width);
      for (int64_t row = first; row < last; row++) {
        map.for_each_number(row, [&](Element number, int64_t column) {
          const double value = static_cast<double>(static_cast<Sum>(number));
          squares[(row - first) * map.width + column] += value * value;
        });
      }
      for (const double square : squares) {
        if (!std::isfinite(square)) finite = false;
      }
      for (int64_t row = 0; row + map.patch_size <= last - first; row++) {
        for (int64_t column = 0; column < map.columns; column++) {
          double square = 0;
          for (int64_t dy = 0; dy < map.patch_size; dy++) {
            for (int64_t dx = 0; dx < map.patch_size; dx++) square += squares[(row + dy) * map.width + column + dx];
          }
          if (!(square <= std::numeric_limits<Sum>::max())) finite = false;
        }
      }
    }
  });
  return finite;
}

// Throws where the map holds NaN or Inf, or a squared patch norm overflows Sum. The largest magnitude is found
// first, as an integer: NaN and Inf have the largest bit patterns. It nearly always proves that no norm overflows.
template <class Sum, class Element>
void check_finite(const Map<Element>& map) {
  using Bits = std::conditional_t<sizeof(Sum) == 8, int64_t, int32_t>;
  constexpr Bits kMagnitude = std::numeric_limits<Bits>::max();
  std::atomic<Bits> largest_bits = 0;
  torch::stable::parallel_for(0, map.height, grain_size(map.channels * map.width), [&](int64_t begin, int64_t end) {
    Bits largest = 0;
    for (int64_t row = begin; row < end; row++) {
      map.for_each_number(row, [&](Element number, int64_t) {
        largest = std::max(largest, std::bit_cast<Bits>(static_cast<Sum>(number)) & kMagnitude);
      });
    }
    Bits seen = largest_bits;
    while (seen < largest && !largest_bits.compare_exchange_weak(seen, largest)) {
    }
  });
  const double largest = std::bit_cast<Sum>(largest_bits.load());
  const double terms = static_cast<double>(map.channels * map.patch_size * map.patch_size);
  if (largest * largest * terms * 1.01 < std::numeric_limits<Sum>::max()) return;
  if (norms_are_finite<Sum>(map)) return;
  std::ostringstream text;
  text << "patchswap.match: " << map.name
       << " must be finite; it holds NaN or Inf (or values whose squared patch norm overflows)";
  throw std::runtime_error(text.str());
}

}  // namespace patchswap
