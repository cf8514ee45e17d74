// similarity and its gradients on the CPU, one sample at a time.
//
// Slabs of up to 64 channels are copied so that the channels of a cell lie side by side, and so do the cells of a row:
// a row of a patch is one run of numbers, whatever the strides and dtype of the map. similarity multiplies runs. Its
// gradients gather: a cell gets, of each pair of patches with that cell, the cell of the other patch. Threads take
// queries, or rows of cells, so that each number is summed by one thread in a fixed order.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../dtype.h"
#include "../ops.h"
#include "buffer.h"
#include "grain.h"
#include "index_range.h"
#include "instruction_set.h"

namespace patchswap {
namespace {

constexpr int64_t kSlabChannels = 64;

// ---- vectors

// What a cell of one map adds to a cell of the other: scale * (norm * numbers). Both are factors of one product, which
// may leave the range of float32 where the norms of both patches are tiny.
template <class Sum>
struct Share {
  int64_t cell;  // of the map that is added
  Sum scale, norm;
};

// What is taken off again: (numbers of the cell itself * root) * signed_root.
template <class Sum>
struct OwnShare {
  const Sum* numbers;
  Sum root, signed_root;
};

template <class Sum>
struct Vectors {
  Sum (*multiply)(const Sum*, int64_t, const Sum*, int64_t, int64_t, int64_t);
  void (*add)(const Share<Sum>*, int64_t, const Sum*, int64_t, const OwnShare<Sum>&, Sum*);
};

}  // namespace
}  // namespace patchswap

#define PATCHSWAP_KERNELS "kernels/similarity.h"
#include "each_instruction_set.h"

namespace patchswap {
namespace {

template <class Sum>
Vectors<Sum> vectors() {
#if defined(__x86_64__)
  if (instruction_set() >= InstructionSet::kAvx512) return {&avx512::multiply_runs<Sum>, &avx512::add_shares<Sum>};
  if (instruction_set() == InstructionSet::kAvx2) return {&avx2::multiply_runs<Sum>, &avx2::add_shares<Sum>};
#endif
  return {&generic::multiply_runs<Sum>, &generic::add_shares<Sum>};
}

// ---- maps

template <class Sum>
Sum inverse_norm(Sum square) {
  if (!(square <= std::numeric_limits<Sum>::max())) return std::numeric_limits<Sum>::quiet_NaN();
  return square < std::numeric_limits<Sum>::min() ? Sum(0) : 1 / std::sqrt(square);
}

// One of the two maps of a sample: a slab of it at a time, and what its patches' norms are made of.
template <class Element>
class SlabMap {
 public:
  using Sum = Accumulate<Element>;

  SlabMap(const Tensor& features, int64_t patch_size, const Vectors<Sum>& vectors)
      : channels(features.size(1)),
        height(features.size(2)),
        width(features.size(3)),
        rows(std::max<int64_t>(height - patch_size + 1, 0)),
        columns(std::max<int64_t>(width - patch_size + 1, 0)),
        patch_size(patch_size),
        pitch(std::min(kSlabChannels, round_up(channels, 64 / sizeof(Sum)))),
        features_(features),
        vectors_(vectors),
        numbers_(height * width * pitch),
        squares_(height * width) {}

  const int64_t channels, height, width, rows, columns, patch_size;
  const int64_t pitch;  // numbers of a cell, of which those beyond the last channel are 0

  // Copies the slab that begins at channel `first`.
  void load(int64_t sample, int64_t first) {
    const int64_t channel_stride = features_.stride(1), row_stride = features_.stride(2);
    const int64_t column_stride = features_.stride(3), count = std::min(kSlabChannels, channels - first);
    const Element* from =
        features_.template const_data_ptr<Element>() + sample * features_.stride(0) + first * channel_stride;
    torch::stable::parallel_for(0, height, grain_size(width * pitch), [&](int64_t begin, int64_t end) {
      constexpr int64_t kChannelsAtOnce = 64 / sizeof(Sum);  // which fill a cache line of the copy
      for (int64_t row = begin; row < end; row++) {
        Sum* to = numbers_.get() + row * width * pitch;
        for (int64_t one = 0; one < pitch; one += kChannelsAtOnce) {
          const int64_t last = std::min(one + kChannelsAtOnce, count);
          for (int64_t column = 0; column < width; column++) {
            const Element* cell = from + row * row_stride + column * column_stride;
            Sum* numbers = to + column * pitch;
            for (int64_t channel = one; channel < last; channel++) {
              numbers[channel] = static_cast<Sum>(cell[channel * channel_stride]);
            }
            for (int64_t channel = std::max(one, last); channel < one + kChannelsAtOnce; channel++) {
              numbers[channel] = 0;
            }
          }
        }
      }
    });
  }

  // Adds what the slab that is loaded adds to the squared norms; the first slab begins anew.
  void add_squares(int64_t first) {
    torch::stable::parallel_for(0, height * width, grain_size(pitch), [&](int64_t begin, int64_t end) {
      for (int64_t cell = begin; cell < end; cell++) {
        const Sum square = vectors_.multiply(at(cell), 0, at(cell), 0, 1, pitch);
        squares_[cell] = first == 0 ? square : squares_[cell] + square;
      }
    });
  }

  // Of every patch one over its norm, from the squares of all slabs.
  std::vector<Sum> inverse_norms() const {
    std::vector<Sum> result(rows * columns);
    for (int64_t patch = 0; patch < rows * columns; patch++) {
      Sum square = 0;
      for (int64_t dy = 0; dy < patch_size; dy++) {
        for (int64_t dx = 0; dx < patch_size; dx++) square += squares_[first_cell(patch) + dy * width + dx];
      }
      result[patch] = inverse_norm(square);
    }
    return result;
  }

  const Sum* at(int64_t cell) const { return numbers_.get() + cell * pitch; }
  int64_t first_cell(int64_t patch) const { return patch / columns * width + patch % columns; }

 private:
  const Tensor& features_;
  const Vectors<Sum>& vectors_;
  Buffer<Sum> numbers_;
  std::vector<Sum> squares_;
};

// ---- gradients

// What one sample's pairs of patches have in common for both gradients.
template <class Element>
struct Pairs {
  using Sum = Accumulate<Element>;
  const int64_t* index;  // [ranks][query patches]
  const Sum *score, *grad;
  int64_t ranks, queries;
  std::vector<Sum> query_norm, key_norm;  // inverse norms

  Pairs(const SimilarityGradientCall& work, int64_t sample, SlabMap<Element>& query, SlabMap<Element>& key)
      : ranks(work.call.ranks), queries(query.rows * query.columns) {
    for (int64_t first = 0; first < query.channels; first += kSlabChannels) {
      for (SlabMap<Element>* map : {&query, &key}) {
        map->load(sample, first);
        map->add_squares(first);
      }
    }
    query_norm = query.inverse_norms();
    key_norm = key.inverse_norms();
    const int64_t begin = sample * ranks * queries;
    index = work.call.index.template const_data_ptr<int64_t>() + begin;
    score = work.call.score.template const_data_ptr<Sum>() + begin;
    grad = work.grad_score.template const_data_ptr<Sum>() + begin;
  }
};

// The gradient of the map `own` from cells of the other one. Of each patch of `own`, patch_totals has what is taken off
// all its cells; list_shares(y, x, shares) lists what a cell gets.
template <class Element, class Sum, class ListShares>
void gather_gradient(SlabMap<Element>& own, SlabMap<Element>& other, int64_t sample, int64_t ranks,
                     const std::vector<double>& patch_totals, const Vectors<Sum>& vectors, const Tensor& result,
                     const ListShares& list_shares) {
  const int64_t size = own.patch_size, plane = own.height * own.width;
  Element* const results = result.mutable_data_ptr<Element>() + sample * own.channels * plane;
  for (int64_t first = 0; first < own.channels; first += kSlabChannels) {
    own.load(sample, first);
    other.load(sample, first);
    const int64_t count = std::min(kSlabChannels, own.channels - first);
    share_items(own.height, plane * size * size * ranks * own.pitch, [&](int64_t y) {
      std::vector<Share<Sum>> shares;
      Buffer<Sum> line(own.width * own.pitch);
      for (int64_t x = 0; x < own.width; x++) {
        shares.clear();
        list_shares(y, x, shares);
        double total = 0;
        for (int64_t row = std::max<int64_t>(y - size + 1, 0); row <= std::min(y, own.rows - 1); row++) {
          for (int64_t column = std::max<int64_t>(x - size + 1, 0); column <= std::min(x, own.columns - 1); column++) {
            total += patch_totals[row * own.columns + column];
          }
        }
        const double root = std::sqrt(std::abs(total));
        const OwnShare<Sum> taken{own.at(y * own.width + x), static_cast<Sum>(root),
                                  static_cast<Sum>(std::copysign(root, total))};
        vectors.add(shares.data(), shares.size(), other.at(0), other.pitch, taken, line.get() + x * own.pitch);
      }
      for (int64_t channel = 0; channel < count; channel++) {
        Element* to = results + (first + channel) * plane + y * own.width;
        for (int64_t x = 0; x < own.width; x++) to[x] = static_cast<Element>(line.get()[x * own.pitch + channel]);
      }
    });
  }
}

template <class Element>
void query_gradient(const SimilarityGradientCall& work, int64_t sample, SlabMap<Element>& query, SlabMap<Element>& key,
                    const Vectors<Accumulate<Element>>& vectors) {
  using Sum = Accumulate<Element>;
  const Pairs<Element> pairs(work, sample, query, key);
  std::vector<Share<Sum>> chosen(pairs.ranks * pairs.queries);  // of each pair; cell -1 where there is none
  std::vector<double> totals(pairs.queries);
  for (int64_t pair = 0; pair < pairs.ranks * pairs.queries; pair++) {
    const int64_t patch = pair % pairs.queries, matched = pairs.index[pair];
    if (matched < 0) {
      chosen[pair].cell = -1;
      continue;
    }
    const Sum grad = pairs.grad[pair], norm = pairs.query_norm[patch];
    chosen[pair] = {key.first_cell(matched), grad * norm, pairs.key_norm[matched]};
    totals[patch] += static_cast<double>(grad) * pairs.score[pair] * norm * norm;
  }
  gather_gradient(query, key, sample, pairs.ranks, totals, vectors, work.result,
                  [&](int64_t y, int64_t x, std::vector<Share<Sum>>& shares) {
                    for (int64_t rank = 0; rank < pairs.ranks; rank++) {
                      for (int64_t dy = 0; dy < query.patch_size; dy++) {
                        for (int64_t dx = 0; dx < query.patch_size; dx++) {
                          const int64_t row = y - dy, column = x - dx;
                          if (row < 0 || row >= query.rows || column < 0 || column >= query.columns) continue;
                          Share<Sum> share = chosen[rank * pairs.queries + row * query.columns + column];
                          if (share.cell < 0) continue;
                          share.cell += dy * key.width + dx;
                          shares.push_back(share);
                        }
                      }
                    }
                  });
}

template <class Element>
void key_gradient(const SimilarityGradientCall& work, int64_t sample, SlabMap<Element>& query, SlabMap<Element>& key,
                  const Vectors<Accumulate<Element>>& vectors) {
  using Sum = Accumulate<Element>;
  const Pairs<Element> pairs(work, sample, query, key);
  const int64_t keys = key.rows * key.columns;
  std::vector<int64_t> ends(keys + 1);  // of each key's queries, in the order of pairs
  std::vector<double> totals(keys);
  for (int64_t pair = 0; pair < pairs.ranks * pairs.queries; pair++) {
    if (pairs.index[pair] >= 0) ends[pairs.index[pair] + 1]++;
  }
  for (int64_t patch = 0; patch < keys; patch++) ends[patch + 1] += ends[patch];
  std::vector<Share<Sum>> choosing(ends[keys]);
  for (int64_t pair = 0; pair < pairs.ranks * pairs.queries; pair++) {
    const int64_t patch = pair % pairs.queries, matched = pairs.index[pair];
    if (matched < 0) continue;
    const Sum grad = pairs.grad[pair], norm = pairs.key_norm[matched];
    choosing[ends[matched]++] = {query.first_cell(patch), grad * norm, pairs.query_norm[patch]};
    totals[matched] += static_cast<double>(grad) * pairs.score[pair] * norm * norm;
  }
  gather_gradient(key, query, sample, pairs.ranks, totals, vectors, work.result,
                  [&](int64_t y, int64_t x, std::vector<Share<Sum>>& shares) {
                    for (int64_t dy = 0; dy < key.patch_size; dy++) {
                      for (int64_t dx = 0; dx < key.patch_size; dx++) {
                        const int64_t row = y - dy, column = x - dx;
                        if (row < 0 || row >= key.rows || column < 0 || column >= key.columns) continue;
                        const int64_t patch = row * key.columns + column;
                        for (int64_t i = patch == 0 ? 0 : ends[patch - 1]; i < ends[patch]; i++) {
                          Share<Sum> share = choosing[i];
                          share.cell += dy * query.width + dx;
                          shares.push_back(share);
                        }
                      }
                    }
                  });
}

template <class Element>
void similarity_of_sample(const SimilarityCall& call, int64_t sample, SlabMap<Element>& query, SlabMap<Element>& key,
                          const Vectors<Accumulate<Element>>& vectors) {
  using Sum = Accumulate<Element>;
  const int64_t queries = query.rows * query.columns, pairs = call.ranks * queries, size = call.patch_size;
  const int64_t* index = call.index.const_data_ptr<int64_t>() + sample * pairs;
  Sum* score = call.score.mutable_data_ptr<Sum>() + sample * pairs;
  std::fill_n(score, pairs, Sum(0));
  for (int64_t first = 0; first < call.channels; first += kSlabChannels) {
    for (SlabMap<Element>* map : {&query, &key}) {
      map->load(sample, first);
      map->add_squares(first);
    }
    torch::stable::parallel_for(0, pairs, grain_size(size * size * query.pitch), [&](int64_t begin, int64_t end) {
      for (int64_t pair = begin; pair < end; pair++) {
        if (index[pair] < 0) continue;
        score[pair] +=
            vectors.multiply(query.at(query.first_cell(pair % queries)), query.width * query.pitch,
                             key.at(key.first_cell(index[pair])), key.width * key.pitch, size, size * query.pitch);
      }
    });
  }
  const std::vector<Sum> query_norm = query.inverse_norms(), key_norm = key.inverse_norms();
  for (int64_t pair = 0; pair < pairs; pair++) {
    score[pair] = index[pair] < 0 ? -std::numeric_limits<Sum>::infinity()
                                  : score[pair] * key_norm[index[pair]] * query_norm[pair % queries];
  }
}

// Calls work(sample, query, key, vectors) for each sample, with maps of the right type.
template <class Work>
void for_each_sample(const char* operation, const SimilarityCall& call, const Work& work) {
  check_index_range(operation, call.index.const_data_ptr<int64_t>(), call.index.numel(),
                    call.key_rows * call.key_columns);
  with_element_type(call.query.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    const Vectors<Accumulate<Element>> found = vectors<Accumulate<Element>>();
    SlabMap<Element> query(call.query, call.patch_size, found), key(call.key, call.patch_size, found);
    for (int64_t sample = 0; sample < call.batch; sample++) work(sample, query, key, found);
  });
}

}  // namespace

void similarity_cpu(const SimilarityCall& call) {
  for_each_sample("similarity", call, [&](int64_t sample, auto& query, auto& key, const auto& vectors) {
    if (call.score.numel() > 0) similarity_of_sample(call, sample, query, key, vectors);
  });
}

void similarity_query_backward_cpu(const SimilarityGradientCall& work) {
  for_each_sample("similarity_query_backward", work.call,
                  [&](int64_t sample, auto& query, auto& key, const auto& vectors) {
                    if (work.result.numel() > 0) query_gradient(work, sample, query, key, vectors);
                  });
}

void similarity_key_backward_cpu(const SimilarityGradientCall& work) {
  for_each_sample("similarity_key_backward", work.call,
                  [&](int64_t sample, auto& query, auto& key, const auto& vectors) {
                    if (work.result.numel() > 0) key_gradient(work, sample, query, key, vectors);
                  });
}

}  // namespace patchswap
