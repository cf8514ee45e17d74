// match on the GPU, first form: exact, simple, and the same code on the host. Not measured on a GPU yet.
//
// Three kernels, each a loop over independent threads: operator() below is the work of one thread, and its number is
// all that it knows of the grid.
//   InverseNorm   one thread per patch: 1 / norm, or a code (see kExcluded)
//   MatchSlice    one thread per (sample, slice of the keys, query): the best keys of that slice
//   MergeSlices   one thread per (sample, query): the best of the slices, and their scores
// Neighbouring threads hold neighbouring queries and read the same keys. A thread scores kKeysAtOnce neighbouring keys
// at a time, so that each query value it loads is used for several of them. Slices exist to have enough threads where
// queries are few; they change nothing in the result, as candidates are compared in a total order.
//
// Torch-free: pointers and sizes only. Element is the type of the features, Sum that of scores (float or double).
#pragma once

#include <cstdint>
#include <limits>

#if defined(__CUDACC__)
#define PATCHSWAP_HOST_DEVICE __host__ __device__ inline
#else
#define PATCHSWAP_HOST_DEVICE inline
#endif

namespace patchswap {

constexpr int kMostRanks = 8;
constexpr int kKeysAtOnce = 8;  // 8 sums, 8 + p - 1 key values and p query values stay well within 255 registers

// One (B, C, height, width) map and the grid of its patches.
template <class Element>
struct MapView {
  const Element* features;  // [B][C][height][width]
  const bool* mask;         // [B][rows][columns], or null for all
  int64_t channels, height, width, rows, columns;

  PATCHSWAP_HOST_DEVICE int64_t patches() const { return rows * columns; }
};

template <class Element, class Sum>
struct MatchParameters {
  MapView<Element> query, key;
  const Sum* query_inverse_norm;  // [B][queries]
  const Sum* key_inverse_norm;    // [B][keys], kExcluded where the key must not be chosen
  int64_t batch, topk, slices;
  Sum* slice_score;      // [B][slices][topk][queries]
  int64_t* slice_index;  // [B][slices][topk][queries]
  Sum* score;            // [B][topk][queries]
  int64_t* index;        // [B][topk][queries]
};

// In place of an inverse norm, marks a patch that takes no part; a patch that is not finite has NaN there.
constexpr int kExcluded = -1;

template <class Sum>
PATCHSWAP_HOST_DEVICE bool is_nan(Sum value) {
  return value != value;
}

PATCHSWAP_HOST_DEVICE float inverse_square_root(float value) {
#if defined(__CUDA_ARCH__)
  return 1.0f / sqrtf(value);
#else
  return 1.0f / __builtin_sqrtf(value);
#endif
}
PATCHSWAP_HOST_DEVICE double inverse_square_root(double value) {
#if defined(__CUDA_ARCH__)
  return 1.0 / sqrt(value);
#else
  return 1.0 / __builtin_sqrt(value);
#endif
}

// The largest and the smallest normal number; numeric_limits' functions are not callable in device code.
template <class Sum>
struct Range;
template <>
struct Range<float> {
  static constexpr float kLargest = std::numeric_limits<float>::max();
  static constexpr float kSmallest = std::numeric_limits<float>::min();
};
template <>
struct Range<double> {
  static constexpr double kLargest = std::numeric_limits<double>::max();
  static constexpr double kSmallest = std::numeric_limits<double>::min();
};

template <class Sum>
PATCHSWAP_HOST_DEVICE Sum minus_infinity() {
  return -static_cast<Sum>(__builtin_inff());
}

// A higher score goes first; of equal scores, the lower index.
template <class Sum>
PATCHSWAP_HOST_DEVICE bool goes_before(Sum score, int64_t index, Sum other_score, int64_t other_index) {
  return score > other_score || (score == other_score && index < other_index);
}

// The best candidates so far, best first; free ranks hold index -1 and score -inf.
template <class Sum>
struct Candidates {
  Sum score[kMostRanks];
  int64_t index[kMostRanks];

  PATCHSWAP_HOST_DEVICE Candidates() {
    for (int rank = 0; rank < kMostRanks; rank++) {
      score[rank] = minus_infinity<Sum>();
      index[rank] = -1;
    }
  }

  PATCHSWAP_HOST_DEVICE void offer(int64_t topk, Sum new_score, int64_t new_index) {
    if (!goes_before(new_score, new_index, score[topk - 1], index[topk - 1])) return;
    int64_t rank = topk - 1;
    for (; rank > 0 && goes_before(new_score, new_index, score[rank - 1], index[rank - 1]); rank--) {
      score[rank] = score[rank - 1];
      index[rank] = index[rank - 1];
    }
    score[rank] = new_score;
    index[rank] = new_index;
  }
};

// inverse_norm: [B][rows][columns]. One thread per entry.
template <int P, class Element, class Sum>
struct InverseNorm {
  MapView<Element> map;
  Sum* inverse_norm;

  PATCHSWAP_HOST_DEVICE void operator()(int64_t thread) const {
    const int64_t sample = thread / map.patches(), patch = thread % map.patches();
    if (map.mask != nullptr && !map.mask[thread]) {
      inverse_norm[thread] = kExcluded;
      return;
    }
    const int64_t row = patch / map.columns, column = patch % map.columns;
    const Element* features = map.features + sample * map.channels * map.height * map.width;
    Sum square = 0;
    for (int64_t channel = 0; channel < map.channels; channel++) {
      const Element* cells = features + (channel * map.height + row) * map.width + column;
      for (int dy = 0; dy < P; dy++) {
        for (int dx = 0; dx < P; dx++) {
          const Sum value = static_cast<Sum>(cells[dy * map.width + dx]);
          square += value * value;
        }
      }
    }
    if (!(square <= Range<Sum>::kLargest)) {
      inverse_norm[thread] = static_cast<Sum>(__builtin_nanf(""));
    } else {
      inverse_norm[thread] = square < Range<Sum>::kSmallest ? Sum(0) : inverse_square_root(square);
    }
  }
};

// One thread per (sample, slice, query), query fastest.
template <int P, class Element, class Sum>
struct MatchSlice {
  MatchParameters<Element, Sum> p;

  PATCHSWAP_HOST_DEVICE void operator()(int64_t thread) const {
    const int64_t queries = p.query.patches();
    const int64_t query = thread % queries, slice = thread / queries % p.slices, sample = thread / queries / p.slices;
    Candidates<Sum> best;
    const Sum query_inverse_norm = p.query_inverse_norm[sample * queries + query];
    if (query_inverse_norm >= 0) {
      const int64_t query_plane = p.query.height * p.query.width, key_plane = p.key.height * p.key.width;
      const Element* query_cells = p.query.features + sample * p.query.channels * query_plane +
                                   query / p.query.columns * p.query.width + query % p.query.columns;
      const Element* key_cells = p.key.features + sample * p.key.channels * key_plane;
      const Sum* key_inverse_norm = p.key_inverse_norm + sample * p.key.patches();

      // Groups of kKeysAtOnce neighbouring keys of one row; a slice is a run of groups.
      const int64_t groups_in_row = (p.key.columns + kKeysAtOnce - 1) / kKeysAtOnce;
      const int64_t groups = groups_in_row * p.key.rows;
      const int64_t group_end = groups * (slice + 1) / p.slices;
      for (int64_t group = groups * slice / p.slices; group < group_end; group++) {
        const int64_t row = group / groups_in_row, first = group % groups_in_row * kKeysAtOnce;
        const int present = p.key.columns - first < kKeysAtOnce ? static_cast<int>(p.key.columns - first) : kKeysAtOnce;
        bool any_valid = false;
        for (int i = 0; i < present; i++) any_valid |= key_inverse_norm[row * p.key.columns + first + i] >= 0;
        if (!any_valid) continue;

        // Every key adds its terms in the same order, so equal patches have equal scores bit for bit.
        Sum sum[kKeysAtOnce] = {};
        for (int64_t channel = 0; channel < p.query.channels; channel++) {
          for (int dy = 0; dy < P; dy++) {
            const Element* left = query_cells + channel * query_plane + dy * p.query.width;
            const Element* right = key_cells + channel * key_plane + (row + dy) * p.key.width + first;
            Sum query_value[P], key_value[kKeysAtOnce + P - 1];
            for (int i = 0; i < P; i++) query_value[i] = static_cast<Sum>(left[i]);
            for (int i = 0; i < kKeysAtOnce + P - 1; i++) {
              key_value[i] = i < present + P - 1 ? static_cast<Sum>(right[i]) : Sum(0);
            }
            for (int dx = 0; dx < P; dx++) {
              for (int i = 0; i < kKeysAtOnce; i++) sum[i] += query_value[dx] * key_value[i + dx];
            }
          }
        }
        for (int i = 0; i < present; i++) {
          const int64_t key = row * p.key.columns + first + i;
          const Sum scale = key_inverse_norm[key];
          if (scale >= 0) best.offer(p.topk, sum[i] * scale, key);
        }
      }
    }
    for (int64_t rank = 0; rank < p.topk; rank++) {
      const int64_t place = ((sample * p.slices + slice) * p.topk + rank) * queries + query;
      p.slice_score[place] = best.score[rank];
      p.slice_index[place] = best.index[rank];
    }
  }
};

// One thread per (sample, query).
template <class Element, class Sum>
struct MergeSlices {
  MatchParameters<Element, Sum> p;

  PATCHSWAP_HOST_DEVICE void operator()(int64_t thread) const {
    const int64_t queries = p.query.patches(), sample = thread / queries, query = thread % queries;
    Candidates<Sum> best;
    for (int64_t slice = 0; slice < p.slices; slice++) {
      for (int64_t rank = 0; rank < p.topk; rank++) {
        const int64_t place = ((sample * p.slices + slice) * p.topk + rank) * queries + query;
        if (p.slice_index[place] >= 0) best.offer(p.topk, p.slice_score[place], p.slice_index[place]);
      }
    }
    const Sum query_inverse_norm = p.query_inverse_norm[thread];
    for (int64_t rank = 0; rank < p.topk; rank++) {
      const int64_t place = (sample * p.topk + rank) * queries + query;
      p.index[place] = best.index[rank];
      if (is_nan(query_inverse_norm)) {
        p.score[place] = query_inverse_norm;
      } else {
        p.score[place] = best.index[rank] >= 0 ? best.score[rank] * query_inverse_norm : minus_infinity<Sum>();
      }
    }
  }
};

}  // namespace patchswap
