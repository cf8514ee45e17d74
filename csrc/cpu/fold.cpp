// fold and its gradients on the CPU.
//
// fold works on a band of output rows at a time: where the patches that cover each cell come from, and with weights the
// share of each in the cell, is looked up once and then used for every channel, of which each thread takes some.
// fold_backward works one channel plane at a time, so that each thread owns what it adds to and the order of additions
// is fixed. fold_weights_backward gives each thread rows of queries.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "../dtype.h"
#include "../ops.h"
#include "grain.h"
#include "index_range.h"

namespace patchswap {
namespace {

constexpr int kMostCopies = kMaxTopk * kMaxPatch * kMaxPatch;  // that cover a cell

// What one sample's queries chose: [ranks][rows][columns]. The weights are read where they count only.
template <class Sum>
struct Queries {
  const int64_t* index;
  const Sum* weights;
};

template <bool kIsWeighted, class Sum>
Queries<Sum> queries_of(const FoldCall& call, int64_t sample) {
  const int64_t first = sample * call.ranks * call.rows * call.columns;
  return {.index = call.index.const_data_ptr<int64_t>() + first,
          .weights = kIsWeighted ? call.weights->const_data_ptr<Sum>() + first : nullptr};
}

// The copies that cover one cell, and what they count together: their number, or the sum of their weights.
template <class Sum>
struct Cover {
  int count;
  Sum total;
};

// The key cells (row-major offsets) that fall on output cell (y, x), at most ranks * p * p, and with weights those of
// their patches. A patch of weight 0 is left out.
template <bool kIsWeighted, class Sum>
Cover<Sum> source_cells(const FoldCall& call, const Queries<Sum>& queries, int64_t y, int64_t x, int64_t* cells,
                        Sum* weights) {
  int count = 0;
  Sum total = 0;
  for (int64_t rank = 0; rank < call.ranks; rank++) {
    for (int64_t dy = 0; dy < call.patch_size; dy++) {
      const int64_t row = y - dy;
      if (row < 0 || row >= call.rows) continue;
      for (int64_t dx = 0; dx < call.patch_size; dx++) {
        const int64_t column = x - dx;
        if (column < 0 || column >= call.columns) continue;
        const int64_t copy = (rank * call.rows + row) * call.columns + column, key = queries.index[copy];
        if (key < 0) continue;
        if constexpr (kIsWeighted) {
          const Sum weight = queries.weights[copy];
          if (weight == 0) continue;
          total += weight;
          weights[count] = weight;
        }
        cells[count++] = (key / call.key_columns + dy) * call.key_width + key % call.key_columns + dx;
      }
    }
  }
  return {.count = count, .total = kIsWeighted ? total : static_cast<Sum>(count)};
}

// Rows of output cells: those that some patch covers, and where these patches' cells lie in the key map.
template <class Sum>
struct Band {
  int64_t first, end;                             // rows
  std::vector<int64_t> cells;                     // of the covered cells, one after the other
  std::vector<Sum> shares;                        // with weights, of each of `cells`: what of its mean it makes up
  std::vector<std::pair<int64_t, int64_t>> ends;  // of each covered cell: (output cell, end of its part of `cells`)
};

// The rows from `first` on that have about kMostCells cells to be read, so that these and a channel stay in the cache.
template <bool kIsWeighted, class Sum>
Band<Sum> find_band(const FoldCall& call, const Queries<Sum>& queries, int64_t first) {
  constexpr size_t kMostCells = 1 << 16;
  Band<Sum> band{.first = first, .end = first};
  int64_t found[kMostCopies];
  Sum weights[kMostCopies];
  for (; band.end < call.height && band.cells.size() < kMostCells; band.end++) {
    for (int64_t x = 0; x < call.width; x++) {
      const auto [count, total] = source_cells<kIsWeighted>(call, queries, band.end, x, found, weights);
      if (count == 0) continue;
      band.cells.insert(band.cells.end(), found, found + count);
      if constexpr (kIsWeighted) {
        for (int i = 0; i < count; i++) band.shares.push_back(weights[i] / total);
      }
      band.ends.emplace_back(band.end * call.width + x, band.cells.size());
    }
  }
  return band;
}

// What a thread works on: a band of one sample, and channels of it.
template <class Sum>
struct BandShare {
  const Band<Sum>& band;
  int64_t sample, begin, end;
};

// Lays out the base of a band in one channel, or zeros, where some of its cells take them.
template <class Element>
void lay_base(const FoldCall& call, const BandShare<Accumulate<Element>>& share, int64_t channel) {
  const int64_t first = share.band.first * call.width, count = (share.band.end - share.band.first) * call.width;
  if (call.is_laid || static_cast<int64_t>(share.band.ends.size()) == count) return;
  const int64_t at = (share.sample * call.channels + channel) * call.height * call.width + first;
  Element* result = call.result.mutable_data_ptr<Element>() + at;
  if (call.base) {
    std::copy_n(call.base->const_data_ptr<Element>() + at, count, result);
  } else {
    std::fill_n(result, count, static_cast<Element>(0));
  }
}

// From keys whose channels are planes, plane by plane: the base of a plane is in the cache when its covered cells are
// written.
template <bool kIsWeighted, class Element, class Sum = Accumulate<Element>>
void average_in_planes(const FoldCall& call, const BandShare<Sum>& share) {
  const int64_t key_plane = call.key_height * call.key_width, plane = call.height * call.width;
  for (int64_t channel = share.begin; channel < share.end; channel++) {
    lay_base<Element>(call, share, channel);
    const int64_t number = share.sample * call.channels + channel;
    const Element* key = call.source.const_data_ptr<Element>() + number * key_plane;
    Element* result = call.result.mutable_data_ptr<Element>() + number * plane;
    int64_t i = 0;
    for (const auto& [cell, cells_end] : share.band.ends) {
      const int64_t patches = cells_end - i;
      Sum sum = 0;
      for (; i < cells_end; i++) {
        const Sum number = static_cast<Sum>(key[share.band.cells[i]]);
        sum += kIsWeighted ? share.band.shares[i] * number : number;
      }
      result[cell] = static_cast<Element>(kIsWeighted ? sum : sum / patches);
    }
  }
}

// The same from keys whose channels lie side by side, cell by cell. The means of as many cells as fill a cache line are
// written together, plane by plane: lines of many planes may be in each other's way in the cache.
template <bool kIsWeighted, class Element, class Sum = Accumulate<Element>>
void average_cells(const FoldCall& call, const BandShare<Sum>& share) {
  constexpr size_t kCellsAtOnce = 64 / sizeof(Element);
  const int64_t key_plane = call.key_height * call.key_width, plane = call.height * call.width;
  const int64_t channels = share.end - share.begin;
  const Element* keys = call.source.const_data_ptr<Element>() + share.sample * key_plane * call.channels + share.begin;
  Element* result = call.result.mutable_data_ptr<Element>() + (share.sample * call.channels + share.begin) * plane;
  for (int64_t channel = share.begin; channel < share.end; channel++) lay_base<Element>(call, share, channel);
  std::vector<Sum> means(kCellsAtOnce * channels);
  const auto& ends = share.band.ends;
  int64_t i = 0;
  for (size_t first = 0; first < ends.size(); first += kCellsAtOnce) {
    const size_t last = std::min(first + kCellsAtOnce, ends.size());
    std::fill(means.begin(), means.end(), Sum(0));
    for (size_t at = first; at < last; at++) {
      Sum* mean = means.data() + (at - first) * channels;
      const int64_t patches = ends[at].second - i;
      for (; i < ends[at].second; i++) {
        const Element* key = keys + share.band.cells[i] * call.channels;
        const Sum factor = kIsWeighted ? share.band.shares[i] : 1;
        for (int64_t channel = 0; channel < channels; channel++) {
          const Sum number = static_cast<Sum>(key[channel]);
          mean[channel] += kIsWeighted ? factor * number : number;
        }
      }
      for (int64_t channel = 0; !kIsWeighted && channel < channels; channel++) mean[channel] /= patches;
    }
    for (int64_t channel = 0; channel < channels; channel++) {
      Element* to = result + channel * plane;
      for (size_t at = first; at < last; at++) {
        to[ends[at].first] = static_cast<Element>(means[(at - first) * channels + channel]);
      }
    }
  }
}

// Of every cell of (B, height, width).
template <bool kIsWeighted, class Sum>
std::vector<Sum> find_covers(const FoldCall& call) {
  std::vector<Sum> covers(call.batch * call.height * call.width);
  const int64_t grain = grain_size(call.width * call.ranks * call.patch_size * call.patch_size);
  torch::stable::parallel_for(0, call.batch * call.height, grain, [&](int64_t begin, int64_t end) {
    int64_t cells[kMostCopies];
    Sum weights[kMostCopies];
    for (int64_t item = begin; item < end; item++) {
      const Queries<Sum> queries = queries_of<kIsWeighted, Sum>(call, item / call.height);
      for (int64_t x = 0; x < call.width; x++) {
        covers[item * call.width + x] =
            source_cells<kIsWeighted>(call, queries, item % call.height, x, cells, weights).total;
      }
    }
  });
  return covers;
}

// What each copy makes up of each cell it covers: [B][ranks][rows][columns][p * p]. Not set where there is none.
template <class Sum>
std::vector<Sum> find_shares(const FoldCall& call, const std::vector<Sum>& covers) {
  const int64_t patch_cells = call.patch_size * call.patch_size;
  std::vector<Sum> shares(call.index.numel() * patch_cells);
  const int64_t grain = grain_size(call.columns * patch_cells);
  const Queries<Sum> all = queries_of<true, Sum>(call, 0);
  torch::stable::parallel_for(0, call.batch * call.ranks * call.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
      const int64_t sample = item / call.rows / call.ranks, row = item % call.rows;
      Sum* share = shares.data() + item * call.columns * patch_cells;
      for (int64_t column = 0; column < call.columns; column++) {
        const int64_t copy = item * call.columns + column;
        for (int64_t cell = 0; cell < patch_cells; cell++, share++) {
          if (all.index[copy] < 0 || all.weights[copy] == 0) continue;
          const int64_t y = row + cell / call.patch_size, x = column + cell % call.patch_size;
          *share = all.weights[copy] / covers[(sample * call.height + y) * call.width + x];
        }
      }
    }
  });
  return shares;
}

// Planes of the gradient with respect to key. With weights `shares` is given, without them it is empty. P is the patch
// size, or 0 where it is known at run time only.
template <int P, bool kIsWeighted, class Element, class Sum = Accumulate<Element>>
void fold_backward_planes(const FoldCall& call, const std::vector<Sum>& covers, const std::vector<Sum>& shares,
                          int64_t begin, int64_t end) {
  const int64_t key_plane = call.key_height * call.key_width, plane = call.height * call.width;
  const int64_t queries_in_rank = call.rows * call.columns;
  const int size = P > 0 ? P : static_cast<int>(call.patch_size);
  std::vector<Sum> total(key_plane), from_cell(plane);
  for (int64_t channel = begin; channel < end; channel++) {
    const int64_t sample = channel / call.channels;
    const Queries<Sum> queries = queries_of<kIsWeighted, Sum>(call, sample);
    const Element* grad = call.source.const_data_ptr<Element>() + channel * plane;
    for (int64_t cell = 0; cell < plane; cell++) {
      const Sum number = static_cast<Sum>(grad[cell]);
      from_cell[cell] = kIsWeighted ? number : number / std::max(Sum(1), covers[sample * plane + cell]);
    }
    std::fill(total.begin(), total.end(), Sum(0));
    for (int64_t item = 0; item < call.ranks * call.rows; item++) {
      const int64_t row = item % call.rows;
      for (int64_t column = 0; column < call.columns; column++) {
        const int64_t copy = item * call.columns + column, key = queries.index[copy];
        if (key < 0) continue;
        if (kIsWeighted && queries.weights[copy] == 0) continue;
        Sum* to = &total[key / call.key_columns * call.key_width + key % call.key_columns];
        const Sum* from = &from_cell[row * call.width + column];
        const Sum* share =
            kIsWeighted ? &shares[(sample * call.ranks * queries_in_rank + copy) * size * size] : nullptr;
        for (int dy = 0; dy < size; dy++) {
          for (int dx = 0; dx < size; dx++) to[dx] += kIsWeighted ? share[dy * size + dx] * from[dx] : from[dx];
          to += call.key_width;
          from += call.width;
        }
      }
    }
    Element* result = call.result.mutable_data_ptr<Element>() + channel * key_plane;
    for (int64_t cell = 0; cell < key_plane; cell++) result[cell] = static_cast<Element>(total[cell]);
  }
}

// Rows of queries, counted through ranks and batch, of the gradient with respect to weights.
template <class Element, class Sum = Accumulate<Element>>
void fold_weights_backward_rows(const FoldWeightsCall& work, const std::vector<Sum>& covers, int64_t begin,
                                int64_t end) {
  const FoldCall& call = work.call;
  const int64_t key_plane = call.key_height * call.key_width, plane = call.height * call.width;
  const int64_t patch_cells = call.patch_size * call.patch_size;
  std::vector<Sum> products(call.columns * patch_cells);  // of each query and cell: the sum over channels
  for (int64_t item = begin; item < end; item++) {
    const int64_t sample = item / call.rows / call.ranks, row = item % call.rows;
    const int64_t* index = call.index.const_data_ptr<int64_t>() + item * call.columns;
    std::fill(products.begin(), products.end(), Sum(0));
    for (int64_t channel = sample * call.channels; channel < (sample + 1) * call.channels; channel++) {
      const Element* grad = call.source.const_data_ptr<Element>() + channel * plane + row * call.width;
      const Element* mean = work.output.const_data_ptr<Element>() + channel * plane + row * call.width;
      const Element* keys = work.key.const_data_ptr<Element>() + channel * key_plane;
      Sum* product = products.data();
      for (int64_t column = 0; column < call.columns; column++, product += patch_cells) {
        if (index[column] < 0) continue;
        const Element* key =
            keys + index[column] / call.key_columns * call.key_width + index[column] % call.key_columns;
        for (int64_t dy = 0; dy < call.patch_size; dy++) {
          for (int64_t dx = 0; dx < call.patch_size; dx++) {
            const int64_t cell = dy * call.width + column + dx;
            const Sum difference = static_cast<Sum>(key[dy * call.key_width + dx]) - static_cast<Sum>(mean[cell]);
            product[dy * call.patch_size + dx] += static_cast<Sum>(grad[cell]) * difference;
          }
        }
      }
    }
    Sum* result = call.result.mutable_data_ptr<Sum>() + item * call.columns;
    const Sum* cover = covers.data() + (sample * call.height + row) * call.width;
    for (int64_t column = 0; column < call.columns; column++) {
      Sum total = 0;
      for (int64_t cell = 0; cell < patch_cells; cell++) {
        const Sum weight = cover[cell / call.patch_size * call.width + column + cell % call.patch_size];
        if (weight > 0) total += products[column * patch_cells + cell] / weight;
      }
      result[column] = total;
    }
  }
}

void check_queries(const char* operation, const FoldCall& call) {
  check_index_range(operation, call.index.const_data_ptr<int64_t>(), call.index.numel(),
                    call.key_rows * call.key_columns);
  if (!call.weights) return;
  const double most = call.most_weight();
  with_element_type(call.weights->scalar_type(), [&](auto zero) {
    using Weight = decltype(zero);
    const Weight* weights = call.weights->const_data_ptr<Weight>();
    const Weight* end = weights + call.weights->numel();
    const Weight* wrong =
        std::find_if_not(weights, end, [most](Weight weight) { return weight >= Weight(0) && weight <= Weight(most); });
    if (wrong == end) return;
    std::ostringstream text;
    text << "patchswap." << operation << ": weights must be numbers from 0 to " << most << "; got "
         << number_text(*wrong);
    throw std::runtime_error(text.str());
  });
}

// Calls function(std::bool_constant<...>{}) with whether there are weights.
template <class Function>
void with_weights(const FoldCall& call, Function function) {
  call.weights ? function(std::true_type{}) : function(std::false_type{});
}

}  // namespace

void fold_cpu(const FoldCall& call) {
  check_queries("fold", call);
  if (call.result.numel() == 0) return;
  with_element_type(call.source.scalar_type(), [&](auto element) {
    with_weights(call, [&](auto is_weighted) {
      using Element = decltype(element);
      using Sum = Accumulate<Element>;
      constexpr bool kIsWeighted = decltype(is_weighted)::value;
      for (int64_t sample = 0; sample < call.batch; sample++) {
        const Queries<Sum> queries = queries_of<kIsWeighted, Sum>(call, sample);
        for (int64_t first = 0; first < call.height;) {
          const Band<Sum> band = find_band<kIsWeighted>(call, queries, first);
          const int64_t grain = grain_size((band.end - first) * call.width + band.cells.size());
          torch::stable::parallel_for(0, call.channels, grain, [&](int64_t begin, int64_t end) {
            const BandShare<Sum> share{band, sample, begin, end};
            if (call.source.stride(1) == 1) {
              average_cells<kIsWeighted, Element>(call, share);
            } else {
              average_in_planes<kIsWeighted, Element>(call, share);
            }
          });
          first = band.end;
        }
      }
    });
  });
}

void fold_backward_cpu(const FoldCall& call) {
  check_queries("fold_backward", call);
  if (call.result.numel() == 0) return;
  const int64_t grain = grain_size(call.ranks * call.rows * call.columns * call.patch_size * call.patch_size);
  with_element_type(call.source.scalar_type(), [&](auto element) {
    with_weights(call, [&](auto is_weighted) {
      using Element = decltype(element);
      using Sum = Accumulate<Element>;
      constexpr bool kIsWeighted = decltype(is_weighted)::value;
      const std::vector<Sum> covers = find_covers<kIsWeighted, Sum>(call);
      const std::vector<Sum> shares = kIsWeighted ? find_shares(call, covers) : std::vector<Sum>();
      with_usual_patch_size(call.patch_size, [&](auto patch_size) {
        torch::stable::parallel_for(0, call.batch * call.channels, grain, [&](int64_t begin, int64_t end) {
          fold_backward_planes<decltype(patch_size)::value, kIsWeighted, Element>(call, covers, shares, begin, end);
        });
      });
    });
  });
}

void fold_weights_backward_cpu(const FoldWeightsCall& work) {
  const FoldCall& call = work.call;
  check_queries("fold_weights_backward", call);
  if (call.result.numel() == 0) return;
  const int64_t grain = grain_size(call.columns * call.patch_size * call.patch_size * call.channels);
  with_element_type(call.source.scalar_type(), [&](auto element) {
    using Element = decltype(element);
    const auto covers = find_covers<true, Accumulate<Element>>(call);
    torch::stable::parallel_for(0, call.batch * call.ranks * call.rows, grain, [&](int64_t begin, int64_t end) {
      fold_weights_backward_rows<Element>(work, covers, begin, end);
    });
  });
}

}  // namespace patchswap
