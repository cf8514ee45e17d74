// cohere on the CPU, one sample at a time.
//
// Both grids have a border of one patch, so neighbours and what they propose need no check of bounds. A query is known
// by its place in its grid, a key by its code: its place in the key grid, which says whether it may be chosen. The
// neighbour at a distance proposes its own key, moved by this distance. Equal offsets are thus equal codes, and the
// candidates of a query are a short list of codes.
//
// Threads take kQueriesAtOnce queries at a time. A query stores the scores of its list, so that each sweep
// computes new ones only. Where nothing around it changed, it keeps its key.

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "../dtype.h"
#include "../ops.h"
#include "buffer.h"
#include "grain.h"
#include "index_range.h"
#include "instruction_set.h"

namespace patchswap {
namespace {

constexpr int kNeighbours = 8;
constexpr int kMostCandidates = kMaxTopk + kNeighbours;
constexpr int64_t kNone = -1;
constexpr int64_t kQueriesAtOnce = 16;

// ---- scores

// A map whose channels lie side by side, and so do the cells of a row: a row of a patch is contiguous.
template <class Sum>
struct Cells {
  const Sum* data;
  int64_t channels, row_stride;

  const Sum* at(int64_t row, int64_t column) const { return data + row * row_stride + column * channels; }
};

// Where the map lies, or a copy of it in `memory`.
template <class Element, class Sum>
Cells<Sum> cells_of(const Tensor& features, int64_t sample, Buffer<Sum>& memory) {
  const int64_t channels = features.size(1), height = features.size(2), width = features.size(3);
  const int64_t channel_stride = features.stride(1), row_stride = features.stride(2),
                column_stride = features.stride(3);
  const Element* from = features.const_data_ptr<Element>() + sample * features.stride(0);
  if constexpr (std::is_same_v<Element, Sum>) {
    if ((channel_stride == 1 || channels == 1) && (column_stride == channels || width == 1)) {
      return {from, channels, row_stride};
    }
  }
  constexpr int64_t kChannelsAtOnce = 64 / sizeof(Sum);  // which fill a cache line of the copy
  memory = Buffer<Sum>(channels * height * width);
  torch::stable::parallel_for(0, height, grain_size(channels * width), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      for (int64_t first = 0; first < channels; first += kChannelsAtOnce) {
        const int64_t last = std::min(first + kChannelsAtOnce, channels);
        for (int64_t column = 0; column < width; column++) {
          const Element* cell = from + row * row_stride + column * column_stride;
          Sum* to = memory.get() + (row * width + column) * channels;
          for (int64_t channel = first; channel < last; channel++) {
            to[channel] = static_cast<Sum>(cell[channel * channel_stride]);
          }
        }
      }
    }
  });
  return {memory.get(), channels, width * channels};
}

// <q, k> and <k, k>, of a query's patch and a key's.
template <class Sum>
struct Products {
  Sum product, square;
};

template <class Sum>
using PatchProducts = Products<Sum> (*)(const Sum* query, int64_t query_stride, const Sum* key, int64_t key_stride,
                                        int64_t rows, int64_t length);

}  // namespace
}  // namespace patchswap

#define PATCHSWAP_KERNELS "kernels/cohere.h"
#include "each_instruction_set.h"

namespace patchswap {
namespace {

template <class Sum>
PatchProducts<Sum> patch_products() {
#if defined(__x86_64__)
  if (instruction_set() >= InstructionSet::kAvx512) return &avx512::multiply_patches<Sum>;
  if (instruction_set() == InstructionSet::kAvx2) return &avx2::multiply_patches<Sum>;
#endif
  return &generic::multiply_patches<Sum>;
}

template <class Sum>
Sum inverse_norm(Sum square) {
  if (!(square <= std::numeric_limits<Sum>::max())) return std::numeric_limits<Sum>::quiet_NaN();
  return square < std::numeric_limits<Sum>::min() ? Sum(0) : 1 / std::sqrt(square);
}

// ---- sweeps

// A patch grid with a border of one patch.
struct Grid {
  int64_t rows, columns;

  int64_t pitch() const { return columns + 2; }
  int64_t places() const { return (rows + 2) * pitch(); }
  int64_t place(int64_t row, int64_t column) const { return (row + 1) * pitch() + column + 1; }
  int64_t place_of(int64_t patch) const { return place(patch / columns, patch % columns); }
  int64_t row(int64_t place) const { return place / pitch() - 1; }
  int64_t column(int64_t place) const { return place % pitch() - 1; }

  // From a place to those around it, in row-major order.
  std::array<int64_t, kNeighbours> distances() const {
    const int64_t p = pitch();
    return {-p - 1, -p, -p + 1, -1, 1, p - 1, p, p + 1};
  }
};

template <class Sum>
struct Query {
  int64_t place;
  Sum square, inverse_norm;  // of its patch
  Sum score;                 // with its key
  // The scores of the candidates that it looked at last.
  int known;
  int64_t code[kMostCandidates];
  Sum known_score[kMostCandidates];
};

template <class Sum>
class Sweeps {
 public:
  template <class Element>
  Sweeps(const CohereCall& call, int64_t sample, Element)
      : grid_{call.query_rows, call.query_columns},
        key_grid_{call.key_rows, call.key_columns},
        distances_(grid_.distances()),
        code_distances_(key_grid_.distances()),
        patch_size_(call.patch_size),
        metric_(call.metric),
        multiply_(patch_products<Sum>()),
        query_cells_(cells_of<Element>(call.query, sample, query_memory_)),
        key_cells_(is_same_map(call.query, call.key) ? query_cells_ : cells_of<Element>(call.key, sample, key_memory_)),
        may_be_chosen_(key_grid_.places()),
        keys_(call.ranks, std::vector<int64_t>(grid_.places(), kNone)),
        next_keys_(grid_.places(), kNone),
        changed_(grid_.places()),
        next_changed_(grid_.places()) {
    for (int neighbours = 0; neighbours <= kNeighbours; neighbours++) {
      support_[neighbours] = static_cast<Sum>(call.weight * neighbours / kNeighbours);
    }
    const int64_t keys = key_grid_.rows * key_grid_.columns, queries = grid_.rows * grid_.columns;
    const bool* mask = call.key_mask ? call.key_mask->const_data_ptr<bool>() + sample * keys : nullptr;
    for (int64_t key = 0; key < keys; key++) may_be_chosen_[key_grid_.place_of(key)] = !mask || mask[key];
    mask = call.query_mask ? call.query_mask->const_data_ptr<bool>() + sample * queries : nullptr;
    const int64_t* index = call.given.const_data_ptr<int64_t>() + sample * call.ranks * queries;
    for (int64_t query = 0; query < queries; query++) {
      if (mask && !mask[query]) continue;
      const int64_t place = grid_.place_of(query);
      for (int64_t rank = 0; rank < call.ranks; rank++) {
        const int64_t key = index[rank * queries + query];
        const int64_t code = key < 0 ? kNone : key_grid_.place_of(key);
        if (code != kNone && may_be_chosen_[code]) keys_[rank][place] = code;
        if (keys_[0][place] == kNone) break;
      }
      if (keys_[0][place] == kNone) continue;
      queries_.emplace_back();
      queries_.back().place = place;
    }
  }

  void run(int64_t sweeps) {
    for_queries([&](Query<Sum>& query) { begin(query); });
    bool follows_from_keys = false;  // the sweep before chose by first ranks alone, as this one does
    for (int64_t sweep = 0; sweep < sweeps; sweep++) {
      const size_t ranks = sweep == 0 ? keys_.size() : 1;
      std::atomic<bool> any_changed = false;
      for_queries([&](Query<Sum>& query) {
        if (follows_from_keys && !changed_around(query.place)) {
          next_keys_[query.place] = keys_[0][query.place];
          next_changed_[query.place] = false;
        } else if (choose(query, ranks)) {
          any_changed.store(true, std::memory_order_relaxed);
        }
      });
      keys_[0].swap(next_keys_);
      changed_.swap(next_changed_);
      follows_from_keys = ranks == 1;
      if (follows_from_keys && !any_changed) return;
    }
  }

  // Writes index and score of the sample.
  void write(int64_t* index, Sum* score) const {
    const int64_t queries = grid_.rows * grid_.columns;
    std::fill_n(index, queries, -1);
    std::fill_n(score, queries, -std::numeric_limits<Sum>::infinity());
    for (const Query<Sum>& query : queries_) {
      const int64_t at = grid_.row(query.place) * grid_.columns + grid_.column(query.place);
      const int64_t code = keys_[0][query.place];
      index[at] = key_grid_.row(code) * key_grid_.columns + key_grid_.column(code);
      score[at] = query.score;
    }
  }

 private:
  template <class Work>
  void for_queries(const Work& work) {
    const int64_t count = queries_.size(), numbers = query_cells_.channels * patch_size_ * patch_size_;
    share_items(divide_up(count, kQueriesAtOnce), count * (numbers + kMostCandidates), [&](int64_t item) {
      const int64_t first = item * kQueriesAtOnce;
      for (int64_t i = first; i < std::min(first + kQueriesAtOnce, count); i++) work(queries_[i]);
    });
  }

  Products<Sum> products(const Sum* left, int64_t left_stride, int64_t code) const {
    const Sum* right = key_cells_.at(key_grid_.row(code), key_grid_.column(code));
    return multiply_(left, left_stride, right, key_cells_.row_stride, patch_size_, patch_size_ * key_cells_.channels);
  }

  const Sum* patch(const Query<Sum>& query) const {
    return query_cells_.at(grid_.row(query.place), grid_.column(query.place));
  }

  Sum score(const Query<Sum>& query, int64_t code) const {
    const Products<Sum> found = products(patch(query), query_cells_.row_stride, code);
    const Sum correlation = found.product * inverse_norm(found.square) * query.inverse_norm;
    if (metric_ == Metric::kNcc || std::isnan(correlation)) return correlation;
    if (metric_ == Metric::kDot) return found.product;
    return std::min(2 * found.product - found.square - query.square, Sum(0));
  }

  void begin(Query<Sum>& query) const {
    const Sum* own = patch(query);
    const int64_t stride = query_cells_.row_stride;
    query.square = multiply_(own, stride, own, stride, patch_size_, patch_size_ * query_cells_.channels).square;
    query.inverse_norm = inverse_norm(query.square);
    query.known = 1;
    query.code[0] = keys_[0][query.place];
    query.known_score[0] = query.score = score(query, query.code[0]);
  }

  bool changed_around(int64_t place) const {
    bool changed = changed_[place];
    for (const int64_t distance : distances_) changed |= changed_[place + distance];
    return changed;
  }

  // What the neighbour at this distance proposes to the query at this place.
  int64_t proposal(const std::vector<int64_t>& keys, int64_t place, int neighbour) const {
    const int64_t code = keys[place + distances_[neighbour]];
    if (code == kNone || !may_be_chosen_[code - code_distances_[neighbour]]) return kNone;
    return code - code_distances_[neighbour];
  }

  // Takes the best candidate; whether that is another key.
  bool choose(Query<Sum>& query, size_t ranks) {
    int64_t proposals[kNeighbours], code[kMostCandidates];
    int candidates = 0;
    const auto consider = [&](int64_t candidate) {
      if (candidate == kNone || std::find(code, code + candidates, candidate) != code + candidates) return;
      code[candidates++] = candidate;
    };
    for (size_t rank = 0; rank < ranks; rank++) consider(keys_[rank][query.place]);
    for (int neighbour = 0; neighbour < kNeighbours; neighbour++) {
      proposals[neighbour] = proposal(keys_[0], query.place, neighbour);
      consider(proposals[neighbour]);
    }
    const auto agrees = [&](int neighbour, int64_t candidate) {
      bool agree = proposals[neighbour] == candidate;
      for (size_t rank = 1; rank < ranks; rank++) {
        agree |= proposal(keys_[rank], query.place, neighbour) == candidate;
      }
      return agree;
    };

    Sum scores[kMostCandidates], best_value = 0;
    int best = 0;
    for (int i = 0; i < candidates; i++) {
      const int64_t* known = std::find(query.code, query.code + query.known, code[i]);
      const bool is_known = known != query.code + query.known;
      scores[i] = is_known ? query.known_score[known - query.code] : score(query, code[i]);
      int agreeing = 0;
      for (int neighbour = 0; neighbour < kNeighbours; neighbour++) agreeing += agrees(neighbour, code[i]);
      const Sum value = scores[i] + support_[agreeing];
      if (i > 0 && !(value > best_value)) continue;
      best = i;
      best_value = value;
    }
    const bool changed = best != 0;
    query.score = scores[best];
    query.known = candidates;
    std::copy_n(code, candidates, query.code);
    std::copy_n(scores, candidates, query.known_score);
    next_keys_[query.place] = code[best];
    next_changed_[query.place] = changed;
    return changed;
  }

  const Grid grid_, key_grid_;
  const std::array<int64_t, kNeighbours> distances_, code_distances_;
  const int64_t patch_size_;
  const Metric metric_;
  const PatchProducts<Sum> multiply_;
  Buffer<Sum> query_memory_, key_memory_;
  const Cells<Sum> query_cells_, key_cells_;
  Sum support_[kNeighbours + 1];            // by how many agree
  std::vector<char> may_be_chosen_;         // by code
  std::vector<std::vector<int64_t>> keys_;  // by rank and place: codes
  std::vector<int64_t> next_keys_;          // by place
  std::vector<char> changed_, next_changed_;
  std::vector<Query<Sum>> queries_;
};

}  // namespace

void cohere_cpu(const CohereCall& call) {
  check_index_range("cohere", call.given.const_data_ptr<int64_t>(), call.given.numel(),
                    call.key_rows * call.key_columns);
  if (call.index.numel() == 0) return;
  const int64_t queries = call.query_rows * call.query_columns;
  with_element_type(call.query.scalar_type(), [&](auto element) {
    using Sum = Accumulate<decltype(element)>;
    for (int64_t sample = 0; sample < call.batch; sample++) {
      Sweeps<Sum> sweeps(call, sample, element);
      sweeps.run(call.weight > 0 ? call.sweeps : 0);
      sweeps.write(call.index.mutable_data_ptr<int64_t>() + sample * queries,
                   call.score.mutable_data_ptr<Sum>() + sample * queries);
    }
  });
}

}  // namespace patchswap
