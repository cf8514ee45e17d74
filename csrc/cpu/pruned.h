// The pruned search: a coarse score of every pair with a bound on its error, and the full score of those pairs that the
// bound cannot rule out. It finds what the dense search finds, bit for bit; queries for which it would not pay are
// handed to the dense search.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "coarse.h"
#include "dense.h"
#include "exact.h"

namespace patchswap {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int64_t kMostCoarseQuerySlots = 60;
constexpr int64_t kMostCoarseKeySlots = 128;
constexpr int64_t kSeedStride = 8;           // every so many diagonals are searched for good keys to begin with
constexpr int64_t kWholePairs = 1 << 30;     // as such a stride: shares are whole pairs of tiles
constexpr size_t kMostCandidates = 1 << 15;  // waiting in a thread
// Axes, as a share of the channels. Leading ones: where the walk takes the trailing ones too, and where it does not.
constexpr double kLeadingShareWithQuads = 0.25, kLeadingShareAlone = 0.3125, kTrailingShare = 0.4;
constexpr double kTrailingRange = 4;
constexpr int64_t kMostSpentBase = 128, kMostSpentShare = 10;  // a query is given up beyond this and a 10th of the keys
// Pruning stops where, after an 8th of the pairs, more than a quarter of the queries has been given up; and where full
// scores cost more than the walk spares, by more than a 50th of the dense search. In units of a pair of the dense
// search, a full score takes about kScoreCost, mostly waiting for memory, and the walk spares about half.
constexpr int64_t kJudgedShare = 8, kMostGivenUpShare = 4;
constexpr double kScoreCost = 64, kSparedByWalk = 0.5, kMostLost = 0.02;
constexpr int64_t kReportedTogether = 256;  // full scores
constexpr double kSmallestNorm = 1e-12;     // below, absolute rounding would matter: left to the dense search

// A pair that the bound does not rule out: positions [rows][slots] in their tiles.
struct Candidate {
  int32_t query, key;
  float upper;
  int32_t coarse = 0;  // the walk's sum
};

// A pair whose ranking has been computed, in dense_ranking()'s order of summation.
struct Resolved {
  int32_t query;  // [rows][slots]
  int64_t key;    // index in the key map's patch grid
  float ranking;
};

// How many pairs all threads together have visited, and how many of them scored in full.
struct Effort {
  double all_pairs;
  std::atomic<int64_t> visited = 0, scored = 0;

  bool too_much() const { return scored * kScoreCost > visited * kSparedByWalk + all_pairs * kMostLost; }
};

// One thread's share of the pruned search: a pair of tiles. All arrays are [rows][slots] of their tile.
struct PrunedTask {
  PackedTile<int32_t> query, key;
  const float* query_weight;             // w, 0 where no query takes part
  const float *key_factor, *key_weight;  // step / norm, and w times that; 0 and -inf where no key takes part
  // With the numbers kept apart: w as above, and the numbers themselves, [cell rows][slots][kept_apart].
  const float *query_refined, *key_refined;
  const int8_t *query_apart, *key_apart;
  int64_t kept_apart;      // 0: there are none
  const float* key_scale;  // 1 / norm
  const float* query_norm;
  CellReader query_cells, key_cells;
  int64_t channels;
  float to_ranking;         // from steps to rankings
  double rescore_rounding;  // between fast_product() and dense_ranking(), relative to the norms
  int64_t most_spent;
  WalkBuffers<int32_t> buffers;
  float* upper;      // [key slots]
  int32_t* coarse;   // [key slots]
  float* threshold;  // rankings that a key must reach, in steps; inf where the query is given up
  int32_t* spent;    // pairs resolved
  std::vector<Candidate>& candidates;
  size_t* kept;  // the first of them that have been rescored and may be among the best
  std::vector<Resolved>& resolved;
  const Best<float>* sure;  // what rankings, in steps, the best keys of this share are sure to reach
  bool is_seeding;          // `sure` takes coarse scores instead
  Effort* effort;
  int64_t* visited;                  // pairs, not yet reported
  std::atomic<bool>* is_worthwhile;  // null: whether it is or not
};

// A bound on a pair's ranking that is tighter than the walk's: with the numbers that are kept apart.
template <class Products, int P>
PATCHSWAP_INLINE float refine(const PrunedTask& task, const Candidate& candidate) {
  const int64_t y = candidate.query / task.query.slots, x = candidate.query % task.query.slots;
  const int64_t v = candidate.key / task.key.slots, u = candidate.key % task.key.slots;
  int32_t sum = 0;
  for (int64_t dy = 0; dy < P; dy++) {
    const int64_t query_cell = (y + dy) * task.query.slots + task.query.tile->slot(dy, y, x);
    const int64_t key_cell = (v + dy) * task.key.slots + task.key.tile->slot(dy, v, u);
    sum += Products::product_of_bytes(task.query_apart + query_cell * task.kept_apart,
                                      task.key_apart + key_cell * task.kept_apart, P * task.kept_apart);
  }
  return static_cast<float>(candidate.coarse + sum) * task.key_factor[candidate.key] +
         task.query_refined[candidate.query] * task.key_refined[candidate.key];
}

// Scores the candidates in float32, in any order of summation. Those that may still be among the best are kept, with
// `upper` now above their ranking by no more than rounding; thresholds rise to what their rankings are sure to reach.
template <class Products, int P>
PATCHSWAP_INLINE void rescore(const PrunedTask& task) {
  using Lanes = Registers<float, sizeof(typename Products::Vector)>;
  size_t& kept = *task.kept;
  Effort& effort = *task.effort;
  effort.visited += std::exchange(*task.visited, 0);
  int64_t scored = 0;  // not yet reported
  for (size_t i = kept; i < task.candidates.size(); i++) {
    const Candidate candidate = task.candidates[i];
    float& threshold = task.threshold[candidate.query];
    if (candidate.upper < threshold) continue;
    if (candidate.upper < kInfinity) {  // no seed
      if (task.kept_apart > 0 && refine<Products, P>(task, candidate) < threshold) continue;
      if (++scored == kReportedTogether) {
        effort.scored += std::exchange(scored, 0);
        if (task.is_worthwhile && effort.too_much()) {
          *task.is_worthwhile = false;
          kept = 0;
          break;
        }
      }
    }
    const int64_t y = candidate.query / task.query.slots, x = candidate.query % task.query.slots;
    const int64_t v = candidate.key / task.key.slots, u = candidate.key % task.key.slots;
    if (++task.spent[candidate.query] > task.most_spent) {
      threshold = kInfinity;
      continue;
    }
    const float product = fast_product<Lanes, P>(task.query_cells, y, x, task.key_cells, v, u, task.channels);
    const double ranking = static_cast<double>(product) * task.key_scale[candidate.key] / task.to_ranking;
    const double slack = task.rescore_rounding * task.query_norm[candidate.query] / task.to_ranking;
    const float upper = static_cast<float>(ranking + slack), lower = static_cast<float>(ranking - slack);
    if (upper < threshold) continue;
    task.sure->offer(candidate.query, lower, candidate.key);
    threshold = std::max(threshold, task.sure->worst(candidate.query));
    task.candidates[kept++] = {candidate.query, candidate.key, upper};
  }
  effort.scored += scored;
  if (kept > kMostCandidates) {  // too many near-ties: these queries are given up
    for (size_t i = 0; i < kept; i++) {
      task.threshold[task.candidates[i].query] = kInfinity;
      task.spent[task.candidates[i].query] = task.most_spent + 1;
    }
    kept = 0;
  }
  task.candidates.resize(kept);
}

// Rankings, as the dense search would have them, of the candidates that are left.
template <class Products, int P>
PATCHSWAP_INLINE void resolve(const PrunedTask& task) {
  rescore<Products, P>(task);
  for (const Candidate& candidate : task.candidates) {
    if (candidate.upper < task.threshold[candidate.query]) continue;
    const int64_t y = candidate.query / task.query.slots, x = candidate.query % task.query.slots;
    const int64_t v = candidate.key / task.key.slots, u = candidate.key % task.key.slots;
    const float ranking = dense_ranking<P, Products::kHasFma>(task.query_cells, y, x, task.key_cells, v, u,
                                                              task.channels, task.key_scale[candidate.key]);
    task.resolved.push_back({candidate.query, task.key.tile->patch[candidate.key], ranking});
  }
  task.candidates.clear();
  *task.kept = 0;
}

template <class Walk, int P, bool IsSeeding>
struct PrunedVisitor {
  using Lanes = Registers<float, sizeof(typename Walk::Vector)>;
  using Vector = typename Lanes::Vector;
  static constexpr int kLanes = Walk::kLanes;

  const PrunedTask& task;

  PATCHSWAP_INLINE bool wants(int64_t y, int64_t x) const {
    const int64_t query = y * task.query.slots + x;
    return task.query_weight[query] > 0 && task.threshold[query] < kInfinity &&
           (!task.is_worthwhile || task.is_worthwhile->load(std::memory_order_relaxed));
  }

  PATCHSWAP_INLINE void visit(int64_t y, int64_t x, int64_t v, const int32_t* const (&summed)[P]) const {
    const int64_t slots = task.key.slots, query = y * task.query.slots + x;
    const float *factor = task.key_factor + v * slots, *key_weight = task.key_weight + v * slots;
    const float weight = IsSeeding ? 1e-30f : task.query_weight[query];
    const float threshold = IsSeeding ? task.sure->worst(query) : task.threshold[query];
    typename Walk::Vector passes = {};
    for (int64_t u = 0; u < slots; u += kLanes) {
      typename Walk::Vector total = Walk::load(summed[0] + u);
#pragma GCC unroll 8
      for (int dy = 1; dy < P; dy++) total += Walk::load(summed[dy] + u);
      const Vector upper =
          __builtin_convertvector(total, Vector) * Lanes::load(factor + u) + weight * Lanes::load(key_weight + u);
      if constexpr (!Walk::kTakesQuads) Walk::at(task.coarse + u) = total;
      Lanes::at(task.upper + u) = upper;
      passes |= ~(upper < threshold);
    }
    *task.visited += slots;
    if (!Walk::any(passes)) return;
    if constexpr (IsSeeding) {
      for (int64_t u = 0; u < slots; u++) {
        if (task.upper[u] > task.sure->worst(query)) task.sure->offer(query, task.upper[u], v * slots + u);
      }
    } else {
      for (int64_t first = 0; first < slots; first += kLanes) {
        if (!Walk::any(~(Lanes::load(task.upper + first) < threshold))) continue;
        for (int64_t u = first; u < first + kLanes; u++) {
          // Not less rather than greater: should the bound overflow to NaN, the pair stays in.
          if (!(task.upper[u] < threshold) && task.upper[u] != -kInfinity) {
            task.candidates.push_back(
                {static_cast<int32_t>(query), static_cast<int32_t>(v * slots + u), task.upper[u], task.coarse[u]});
          }
        }
      }
      if (task.candidates.size() < *task.kept + kMostCandidates) return;
      rescore<Walk, P>(task);
    }
  }
};

struct PrunedKernel {
  BasisKernel basis;
  bool takes_quads;  // else trailing numbers are kept apart
  void (*encode)(const EncodeTask& task);
  void (*search)(int64_t patch_size, const PrunedTask& task, int64_t difference);
  void (*resolve)(int64_t patch_size, const PrunedTask& task);

  int64_t query_panel() const { return basis.products.left_panel; }
  int64_t key_panel() const { return basis.products.right_panel; }
};

// The functions of PrunedKernel for one instruction set.
#define PATCHSWAP_PRUNED_KERNEL(name, target, bytes, panel, whole_numbers)                                          \
  struct name {                                                                                                     \
    using Coarse = Walk<CoarseProducts<bytes, panel, WholeNumbers::whole_numbers>>;                                 \
    template <class Number>                                                                                         \
    target static void multiply(const Number* left, int64_t rows, const Number* right, int64_t columns,             \
                                int64_t depth, Number* result, int64_t stride) {                                    \
      multiply_panels<Walk<FullProducts<Number, bytes, panel>>>(left, rows, right, columns, depth, result, stride); \
    }                                                                                                               \
    target static void orthonormalise(float* vectors, int64_t begin, int64_t end, int64_t length, float* norms) {   \
      orthonormalise_block(vectors, begin, end, length, norms);                                                     \
    }                                                                                                               \
    target static void encode(const EncodeTask& task) {                                                             \
      for (int64_t slot = 0; slot < task.word_slots; slot += kEncodedTogether) encode_slots(task, slot);            \
    }                                                                                                               \
    template <int P>                                                                                                \
    target static void walk(const PrunedTask& task, int64_t difference) {                                           \
      if (task.is_seeding) {                                                                                        \
        PrunedVisitor<Coarse, P, true> visitor{task};                                                               \
        Coarse::template diagonal<P>(task.query, task.key, difference, task.buffers, visitor);                      \
      } else {                                                                                                      \
        PrunedVisitor<Coarse, P, false> visitor{task};                                                              \
        Coarse::template diagonal<P>(task.query, task.key, difference, task.buffers, visitor);                      \
      }                                                                                                             \
    }                                                                                                               \
    static void search(int64_t patch_size, const PrunedTask& task, int64_t difference) {                            \
      with_patch_size(patch_size, [&](auto size) { walk<size.value>(task, difference); });                          \
    }                                                                                                               \
    template <int P>                                                                                                \
    target static void resolve_all(const PrunedTask& task) {                                                        \
      patchswap::resolve<Coarse, P>(task);                                                                          \
    }                                                                                                               \
    static void resolve(int64_t patch_size, const PrunedTask& task) {                                               \
      with_patch_size(patch_size, [&](auto size) { resolve_all<size.value>(task); });                               \
    }                                                                                                               \
    static PrunedKernel kernel() {                                                                                  \
      return {{{panel, bytes / 4, &multiply<float>}, {panel, bytes / 8, &multiply<double>}, &orthonormalise},       \
              Coarse::kTakesQuads,                                                                                  \
              &encode,                                                                                              \
              &search,                                                                                              \
              &resolve};                                                                                            \
    }                                                                                                               \
  };

#if defined(__x86_64__)
PATCHSWAP_PRUNED_KERNEL(PrunedVnni, __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,fma"))), 64, 4,
                        kPairsAndQuads)
PATCHSWAP_PRUNED_KERNEL(PrunedAvx512, __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"))), 64, 4, kPairs)
PATCHSWAP_PRUNED_KERNEL(PrunedAvx2, __attribute__((target("avx2,fma"))), 32, 2, kPairs)
PATCHSWAP_PRUNED_KERNEL(PrunedGeneric, , 16, 2, kPairs)  // SSE2
#else
PATCHSWAP_PRUNED_KERNEL(PrunedGeneric, , 16, 2, kPlain)
#endif

inline PrunedKernel pruned_kernel() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAvx512Vnni) return PrunedVnni::kernel();
  if (instruction_set() == InstructionSet::kAvx512) return PrunedAvx512::kernel();
  if (instruction_set() == InstructionSet::kAvx2) return PrunedAvx2::kernel();
#endif
  return PrunedGeneric::kernel();
}

// Tiles [first, end) of a map as coarse cells, with what bounds their patches. Arrays are [rows][slots] of each tile.
struct CoarseGroup {
  std::vector<Tile> contents;
  std::vector<PackedTile<int32_t>> tiles;
  std::vector<const float*> factor, weight, refined, scale, norm;
  std::vector<const int8_t*> apart;
  std::vector<CellReader> cells;
};

// Makes the cells of one map coarse. Keeps its memory from group to group.
template <class Element>
class CoarsePacker {
 public:
  CoarsePacker(const Map<Element>& map, const std::vector<Outline>& tiles, const CoarseScheme& scheme,
               const PrunedKernel& kernel, double step, bool is_query)
      : map_(map), tiles_(tiles), scheme_(scheme), kernel_(kernel), step_(step), is_query_(is_query) {
    panel_ = is_query ? kernel.query_panel() : kernel.key_panel();
    padded_axes_ = round_up(scheme.basis.axes, kernel.query_panel());
    axes_.resize(padded_axes_ * map.channels);
    for (int64_t axis = 0; axis < scheme.basis.axes; axis++) {
      for (int64_t channel = 0; channel < map.channels; channel++) {
        axes_[(axis / kernel.query_panel() * map.channels + channel) * kernel.query_panel() + axis % kernel.query_panel()] =
            scheme.basis.axis[axis * map.channels + channel];
      }
    }
  }

  // Bytes that a cell takes in a group.
  int64_t cell_bytes() const {
    return scheme_.depth().numbers * 4 + scheme_.kept_apart + sizeof(CoarseErrors) + sizeof(double) +
           5 * sizeof(float) + (reads_in_place() ? 0 : map_.channels * sizeof(float));
  }

  // Whether a patch that takes part has a norm too small for the bound. Known once all groups have been packed.
  bool too_small() const { return too_small_; }

  CoarseGroup pack(size_t first, size_t end) {
    CoarseGroup group;
    group.contents = tiles_of(map_, tiles_, first, end);
    std::vector<std::pair<size_t, int64_t>> items;  // (tile, cell row)
    std::vector<int64_t> at;                        // cells before each tile
    int64_t cells = 0, most_slots = 0;
    for (size_t i = first; i < end; i++) {
      at.push_back(cells);
      most_slots = std::max(most_slots, tiles_[i].slots);
      cells += tiles_[i].cell_rows(map_.patch_size) * tiles_[i].slots;
      for (int64_t row = 0; row < tiles_[i].cell_rows(map_.patch_size); row++) items.emplace_back(i, row);
    }
    if (cells > capacity_) {
      capacity_ = cells;
      words_ = Buffer<int32_t>();
      words_ = Buffer<int32_t>(cells * scheme_.depth().numbers);
      apart_ = Buffer<int8_t>();
      apart_ = Buffer<int8_t>(cells * scheme_.kept_apart);
      if (!reads_in_place()) {
        copies_ = Buffer<float>();
        copies_ = Buffer<float>(cells * map_.channels);
      }
      errors_.resize(cells);
      squares_.resize(cells);
      for (auto* array : {&factor_, &weight_, &refined_, &scale_, &norm_}) array->resize(cells);
    }
    for (size_t i = first; i < end; i++) {
      const Tile& tile = group.contents[i - first];
      const int64_t before = at[i - first];
      group.tiles.push_back({.tile = &tile,
                             .slots = tile.slots,
                             .depth = scheme_.depth(),
                             .cells = words_.get() + before * scheme_.depth().numbers});
      group.factor.push_back(factor_.data() + before);
      group.weight.push_back(weight_.data() + before);
      group.refined.push_back(refined_.data() + before);
      group.apart.push_back(apart_.get() + before * scheme_.kept_apart);
      group.scale.push_back(scale_.data() + before);
      group.norm.push_back(norm_.data() + before);
      group.cells.push_back(reader(tile, before));
    }
    const int64_t grain = grain_size(32 * map_.channels);
    torch::stable::parallel_for(0, items.size(), grain, [&](int64_t begin, int64_t until) {
      RowMemory memory(round_up(most_slots, kEncodedTogether), padded_axes_, map_.channels);
      for (int64_t item = begin; item < until; item++) {
        const auto [i, row] = items[item];
        encode_row(group.contents[i - first], row, at[i - first], memory);
      }
    });
    torch::stable::parallel_for(0, items.size(), grain, [&](int64_t begin, int64_t until) {
      for (int64_t item = begin; item < until; item++) {
        const auto [i, row] = items[item];
        const Tile& tile = group.contents[i - first];
        if (row < tile.rows) bound_row(tile, row, at[i - first]);
      }
    });
    return group;
  }

 private:
  struct RowMemory {
    Buffer<float> packed, coordinates;
    std::vector<double> squares;
    int64_t slots;
    RowMemory(int64_t slots, int64_t axes, int64_t channels)
        : packed(slots * channels), coordinates(slots * axes), squares(slots), slots(slots) {}
  };

  bool reads_in_place() const { return std::is_same_v<Element, float> && map_.channel_stride == 1; }

  CellReader reader(const Tile& tile, int64_t before) const {
    if constexpr (std::is_same_v<Element, float>) {
      if (reads_in_place()) {
        return {.tile = &tile,
                .cells = map_.features + tile.first_row * map_.row_stride,
                .row_stride = map_.row_stride,
                .column_stride = map_.column_stride,
                .is_copy = false};
      }
    }
    return {.tile = &tile,
            .cells = copies_.get() + before * map_.channels,
            .row_stride = tile.slots * map_.channels,
            .column_stride = map_.channels,
            .is_copy = true};
  }

  void encode_row(const Tile& tile, int64_t row, int64_t before, RowMemory& memory) {
    const int64_t slots = round_up(tile.cells[row], kEncodedTogether), at = before + row * tile.slots;
    const int64_t present = std::min(slots, tile.slots);
    const int64_t panel = kernel_.key_panel(), channels = map_.channels;
    pack_row(map_, tile, row, slots, panel, memory.packed.get());
    std::fill(memory.squares.begin(), memory.squares.end(), 0.0);
    dense_kernel<float>().key_panel.add_squares(memory.packed.get(), slots, channels, memory.squares.data());
    std::copy_n(memory.squares.data(), present, squares_.data() + at);
    if (!reads_in_place()) {
      for (int64_t slot = 0; slot < tile.cells[row]; slot++) {
        const float* from = memory.packed.get() + slot / panel * panel * channels + slot % panel;
        float* to = copies_.get() + (at + slot) * channels;
        for (int64_t channel = 0; channel < channels; channel++) to[channel] = from[channel * panel];
      }
    }
    kernel_.basis.products.multiply(axes_.data(), padded_axes_, memory.packed.get(), slots, channels,
                                    memory.coordinates.get(), slots);
    kernel_.encode({.scheme = scheme_,
                    .factor = 1 / step_,
                    .coordinates = memory.coordinates.get(),
                    .square_norms = memory.squares.data(),
                    .slots = slots,
                    .is_query = is_query_,
                    .panel = panel_,
                    .word_slots = present,
                    .words = words_.get() + at * scheme_.depth().numbers,
                    .kept_apart = apart_.get() + at * scheme_.kept_apart,
                    .errors = errors_.data() + at});
  }

  void bound_row(const Tile& tile, int64_t row, int64_t before) {
    const int64_t at = before + row * tile.slots;
    inverse_norms(map_, tile, row, squares_.data() + at, scale_.data() + at);
    for (int64_t slot = 0; slot < tile.slots; slot++) {
      const bool valid = tile.patch[row * tile.slots + slot] >= 0;
      const double scale = scale_[at + slot], norm = scale > 0 ? 1 / scale : 0;
      factor_[at + slot] = static_cast<float>(step_ * scale);
      norm_[at + slot] = static_cast<float>(norm);
      weight_[at + slot] = is_query_ ? 0 : valid ? 0 : -kInfinity;
      if (!valid || scale == 0) continue;
      if (norm < kSmallestNorm) {
        too_small_ = true;
        continue;
      }
      const PatchWeights weights =
          patch_weights(scheme_, tile, errors_.data() + before, row, slot, map_.patch_size, norm / step_ * (1 + 1e-6));
      const double unit = (is_query_ ? 1 : step_ * scale) * (1 + 1e-6);
      weight_[at + slot] = static_cast<float>(weights.walk * unit);
      refined_[at + slot] = static_cast<float>(weights.refined * unit);
    }
  }

  const Map<Element>& map_;
  const std::vector<Outline>& tiles_;
  const CoarseScheme& scheme_;
  const PrunedKernel& kernel_;
  double step_;
  bool is_query_;
  int64_t panel_, padded_axes_, capacity_ = 0;
  std::vector<float> axes_;  // [padded axes / panel][channels][panel]
  Buffer<int32_t> words_;
  Buffer<int8_t> apart_;
  Buffer<float> copies_;
  std::vector<CoarseErrors> errors_;
  std::vector<double> squares_;
  std::vector<float> factor_, weight_, refined_, scale_, norm_;
  std::atomic<bool> too_small_ = false;
};

// Roundings of float32 in the scores, each relative to the norms: sums of `terms` products.
inline double sum_rounding(double terms) { return 1.01 * terms * 0x1p-24; }

// What the coarse cells of this query and key map are to be, and their steps; false where a map is zero.
template <class Element>
bool plan_coarse_cells(const Map<Element>& query_map, int64_t queries, const Map<Element>& key_map, int64_t keys,
                       const PrunedKernel& kernel, CoarseScheme& scheme, double& query_step, double& key_step) {
  const int64_t channels = query_map.channels, patch_cells = query_map.patch_size * query_map.patch_size;
  std::vector<float> sample;
  const double key_unit = sample_cells(key_map, keys, sample), query_unit = sample_cells(query_map, queries, sample);
  if (key_unit == 0 || query_unit == 0) return false;
  Basis& basis = scheme.basis;
  basis.channels = channels;
  const double leading_share = kernel.takes_quads ? kLeadingShareWithQuads : kLeadingShareAlone;
  basis.leading = std::min(channels, round_up(std::ceil(channels * leading_share), 2));
  basis.axes = std::min(channels, basis.leading + round_up(std::ceil(channels * kTrailingShare), 4));
  find_axes(sample, kernel.basis, basis);
  scheme.pairs = divide_up(basis.leading, 2);
  if (kernel.takes_quads) {
    scheme.quads = divide_up(basis.axes - basis.leading, 4);
  } else {
    scheme.kept_apart = round_up(basis.axes - basis.leading, kKeptTogether);
  }
  // A step lets 127 of them reach some root mean squares of the strongest trailing axis; what lies beyond is clipped.
  const double strongest = std::max({basis.first_trailing_energy, basis.energy * 1e-6, 1e-30});
  const double step = kTrailingRange * std::sqrt(strongest) / kMostTrailing;
  query_step = step * query_unit;
  key_step = step * key_unit;
  const double error = step / std::sqrt(12.0);
  scheme.leading_balance =
      std::sqrt(std::max(basis.leading_energy, error * error) / basis.leading) / (error / (1 << kLeadingShift));
  scheme.trailing_balance =
      std::sqrt(std::max(basis.trailing_energy, error * error) / std::max<int64_t>(1, basis.axes - basis.leading)) /
      error;
  scheme.coordinate_rounding = sum_rounding(channels + 8) * std::sqrt(basis.axes * (1 + basis.deviation));
  scheme.score_rounding = 1.2 * basis.deviation + sum_rounding(channels + patch_cells + 32);
  return true;
}

// How a pruned search went.
struct PruneResult {
  bool complete = false;  // else nothing is found and everything is left to the dense search
  int64_t rescored_pairs = 0;
};

// One thread's memory.
struct PruneWorker {
  Buffer<int32_t> blocks;
  std::vector<float> upper, threshold, sure_score;
  std::vector<int32_t> coarse;
  std::vector<int64_t> sure_index;
  std::vector<int32_t> spent;
  std::vector<Candidate> candidates;
  size_t kept = 0;
  std::vector<Resolved> resolved;
  int64_t visited = 0;

  PruneWorker(int64_t block_numbers, int64_t key_slots, int64_t patches, int64_t topk)
      : blocks(block_numbers),
        upper(key_slots),
        threshold(patches),
        sure_score(patches * topk),
        coarse(key_slots),
        sure_index(patches * topk),
        spent(patches) {
    std::fill_n(blocks.get(), block_numbers, 0);
  }
  Best<float> sure(int64_t topk) { return {topk, topk, 1, sure_score.data(), sure_index.data()}; }
  void forget() {
    std::fill(spent.begin(), spent.end(), 0);
    std::fill(sure_score.begin(), sure_score.end(), -kInfinity);
    std::fill(sure_index.begin(), sure_index.end(), -1);
  }
};

// Searches for the best keys of the queries of one sample. A query that it gives up keeps index -1. Unless `insist`, it
// stops where that happens to many.
template <class Element>
PruneResult prune(const Map<Element>& query_map, const Map<Element>& key_map, int64_t wanted_queries,
                  int64_t wanted_keys, const Best<float>& found, bool insist) {
  const PrunedKernel kernel = pruned_kernel();
  const int64_t patch_size = query_map.patch_size, topk = found.topk, channels = query_map.channels;
  CoarseScheme scheme;
  double query_step, key_step;
  if (!plan_coarse_cells(query_map, wanted_queries, key_map, wanted_keys, kernel, scheme, query_step, key_step)) {
    return {};
  }
  const std::vector<Outline> queries =
      cut_compactly(query_map, {kernel.query_panel(), kMostCoarseQuerySlots, kMostTileRows});
  const std::vector<Outline> keys = cut_evenly(key_map, {kernel.key_panel(), kMostCoarseKeySlots, kMostTileRows});

  const TileSizes query_sizes(queries), key_sizes(keys);
  const int64_t threads = threads_worth(query_sizes.all_slots * key_sizes.all_slots * (channels / 8 + 1));
  const int64_t block_numbers = WalkBuffers<int32_t>::numbers(query_sizes.slots, key_sizes.slots, patch_size);
  std::vector<PruneWorker> workers;
  for (int64_t i = 0; i < threads; i++) {
    workers.emplace_back(block_numbers, key_sizes.slots, query_sizes.patches, topk);
  }
  CoarsePacker<Element> query_packer(query_map, queries, scheme, kernel, query_step, true);
  CoarsePacker<Element> key_packer(key_map, keys, scheme, kernel, key_step, false);
  const int64_t most_spent = kMostSpentBase + wanted_keys / kMostSpentShare;
  const double rescore_rounding = sum_rounding(patch_size * patch_size * (channels / 4 + 32)) +
                                  sum_rounding(channels + patch_size * patch_size + 4);
  std::mutex merging;
  int64_t rescored_pairs = 0;
  int64_t given_up = 0;
  Effort effort{.all_pairs = static_cast<double>(query_sizes.all_slots) * key_sizes.all_slots};
  std::atomic<bool> is_worthwhile = true;
  auto judge = [&] {
    if (insist || effort.visited * kJudgedShare < effort.all_pairs) return;
    if (given_up * kMostGivenUpShare > wanted_queries) is_worthwhile = false;
  };

  for (size_t first = 0, end; first < queries.size(); first = end) {
    const int64_t seed_bytes = topk * (sizeof(float) + sizeof(int64_t));
    end = group_end(queries, first, patch_size, query_packer.cell_bytes() + seed_bytes, kPackedBytes);
    const CoarseGroup query_group = query_packer.pack(first, end);
    // Pairs rescored for each query of the group, [rows][slots] of each tile; kGivenUp: left to the dense search.
    constexpr int32_t kGivenUp = -1;
    std::vector<std::vector<int32_t>> spent;
    std::vector<int64_t> queries_before = {0};  // in the tiles before each
    for (size_t i = first; i < end; i++) {
      spent.emplace_back(queries[i].rows * queries[i].slots);
      queries_before.push_back(queries_before.back() + queries[i].rows * queries[i].slots);
    }
    auto for_each_query = [&](size_t query, auto visit) {  // visit(position in the tile, index on the patch grid)
      const Tile& tile = query_group.contents[query - first];
      for (int64_t i = 0; i < tile.rows * tile.slots; i++) {
        if (query_group.weight[query - first][i] != 0) visit(i, tile.patch[i]);
      }
    };

    for (size_t key_first = 0, key_end; key_first < keys.size(); key_first = key_end) {
      key_end = group_end(keys, key_first, patch_size, key_packer.cell_bytes(), kPackedBytes);
      const CoarseGroup key_group = key_packer.pack(key_first, key_end);
      if (key_packer.too_small()) return {};

      // Calls use(task) with the task of a worker for a pair of tiles.
      auto with_task = [&](PruneWorker& worker, const Share& share, bool is_seeding, auto use) {
        const size_t q = share.query - first, k = share.key - key_first;
        const Best<float> sure = worker.sure(topk);
        use(PrunedTask{.query = query_group.tiles[q],
                       .key = key_group.tiles[k],
                       .query_weight = query_group.weight[q],
                       .key_factor = key_group.factor[k],
                       .key_weight = key_group.weight[k],
                       .query_refined = query_group.refined[q],
                       .key_refined = key_group.refined[k],
                       .query_apart = query_group.apart[q],
                       .key_apart = key_group.apart[k],
                       .kept_apart = scheme.kept_apart,
                       .key_scale = key_group.scale[k],
                       .query_norm = query_group.norm[q],
                       .query_cells = query_group.cells[q],
                       .key_cells = key_group.cells[k],
                       .channels = channels,
                       .to_ranking = static_cast<float>(query_step),
                       .rescore_rounding = rescore_rounding,
                       .most_spent = most_spent,
                       .buffers = WalkBuffers<int32_t>(worker.blocks.get(), query_sizes.slots, key_sizes.slots),
                       .upper = worker.upper.data(),
                       .coarse = worker.coarse.data(),
                       .threshold = worker.threshold.data(),
                       .spent = worker.spent.data(),
                       .candidates = worker.candidates,
                       .kept = &worker.kept,
                       .resolved = worker.resolved,
                       .sure = &sure,
                       .is_seeding = is_seeding,
                       .effort = &effort,
                       .visited = &worker.visited,
                       .is_worthwhile = insist ? nullptr : &is_worthwhile});
      };
      // Takes what is known of the queries of a tile, and adds what has been found out about them.
      auto read = [&](PruneWorker& worker, size_t query) {
        worker.forget();
        const std::lock_guard<std::mutex> lock(merging);
        for_each_query(query, [&](int64_t i, int64_t at) {
          const bool is_given_up = spent[query - first][i] == kGivenUp;
          worker.threshold[i] = is_given_up ? kInfinity : found.worst(at) / static_cast<float>(query_step);
        });
      };
      auto write = [&](PruneWorker& worker, size_t query) {
        const std::lock_guard<std::mutex> lock(merging);
        for (const Resolved& pair : worker.resolved) {
          const int64_t at = query_group.contents[query - first].patch[pair.query];
          bool known = false;  // as a seed
          for (int64_t rank = 0; rank < topk; rank++) known |= found.index[at + rank * found.rank_stride] == pair.key;
          if (!known) found.offer(at, pair.ranking, pair.key);
        }
        worker.resolved.clear();
        for_each_query(query, [&](int64_t i, int64_t) {
          int32_t& total = spent[query - first][i];
          rescored_pairs += worker.spent[i];
          if (total == kGivenUp) return;
          total += worker.spent[i];
          if (total > most_spent) {
            total = kGivenUp;
            given_up++;
          }
        });
      };

      // The best keys by the coarse score alone, among some of the diagonals, are scored in full at first: good
      // thresholds make short work of the rest.
      std::vector<float> seed_score(key_first == 0 ? queries_before.back() * topk : 0, -kInfinity);
      std::vector<int64_t> seed_key(seed_score.size(), -1);  // positions in all tiles of the group
      const Best<float> seeds{topk, topk, 1, seed_score.data(), seed_key.data()};
      auto find_seeds = [&](int64_t number, const Share& share) {
        PruneWorker& worker = workers[number];
        worker.forget();
        std::fill(worker.threshold.begin(), worker.threshold.end(), -kInfinity);
        with_task(worker, share, true, [&](const PrunedTask& task) {
          for (int64_t d = share.first_difference; d < share.end_difference; d += share.step) {
            kernel.search(patch_size, task, d);
          }
        });
        const std::lock_guard<std::mutex> lock(merging);
        const int64_t before = queries_before[share.query - first];
        const int64_t keys_before = (share.key - key_first) * key_sizes.patches;
        for_each_query(share.query, [&](int64_t i, int64_t) {
          for (int64_t at = i * topk; at < (i + 1) * topk && worker.sure_index[at] >= 0; at++) {
            seeds.offer(before + i, worker.sure_score[at], keys_before + worker.sure_index[at]);
          }
        });
      };
      auto score_seeds = [&](int64_t number, const Share& share) {
        PruneWorker& worker = workers[number];
        read(worker, share.query);
        const int64_t before = queries_before[share.query - first];
        const int64_t keys_before = (share.key - key_first) * key_sizes.patches;
        for_each_query(share.query, [&](int64_t i, int64_t) {
          for (int64_t rank = 0; rank < topk; rank++) {
            const int64_t key = seed_key[(before + i) * topk + rank] - keys_before;
            if (key < 0 || key >= key_sizes.patches) continue;
            worker.candidates.push_back({static_cast<int32_t>(i), static_cast<int32_t>(key), kInfinity});
          }
        });
        with_task(worker, share, false, [&](const PrunedTask& task) { kernel.resolve(patch_size, task); });
        write(worker, share.query);
      };
      auto work = [&](int64_t number, const Share& share) {
        if (!is_worthwhile) return;
        PruneWorker& worker = workers[number];
        read(worker, share.query);
        with_task(worker, share, false, [&](const PrunedTask& task) {
          for (int64_t d = share.first_difference; d < share.end_difference && is_worthwhile; d += share.step) {
            kernel.search(patch_size, task, d);
          }
          kernel.resolve(patch_size, task);
        });
        write(worker, share.query);
        const std::lock_guard<std::mutex> lock(merging);
        judge();
      };
      auto nothing = [](int64_t, size_t) {};
      if (key_first == 0) {
        share_tile_pairs(queries, first, end, keys, 0, key_end, threads, kSeedStride, find_seeds, nothing);
        share_tile_pairs(queries, first, end, keys, 0, key_end, threads, kWholePairs, score_seeds, nothing);
      }
      share_tile_pairs(queries, first, end, keys, key_first, key_end, threads, 1, work, nothing);
      if (!is_worthwhile) return {.complete = false, .rescored_pairs = rescored_pairs};
    }

    for (size_t query = first; query < end; query++) {
      for_each_query(query, [&](int64_t i, int64_t at) {
        for (int64_t rank = 0; rank < topk; rank++) {
          float& score = found.score[at + rank * found.rank_stride];
          int64_t& index = found.index[at + rank * found.rank_stride];
          if (spent[query - first][i] == kGivenUp) {
            score = -kInfinity;
            index = -1;
          } else if (index >= 0) {
            score *= query_group.scale[query - first][i];
          }
        }
      });
    }
  }
  return {.complete = true, .rescored_pairs = rescored_pairs};
}

// Finds the best keys of every query of one sample, as search_all() does, bit for bit. Returns {pairs scored in full,
// queries left to the dense search}. Unless `insist`, all queries are where pruning turns out not to be worth it.
template <class Element>
std::pair<int64_t, int64_t> search_pruned(const Map<Element>& query_map, const Map<Element>& key_map,
                                          const Best<float>& found, bool insist) {
  const int64_t queries = query_map.patches_taking_part(), keys = key_map.patches_taking_part();
  if (queries == 0 || keys == 0) return {0, 0};
  const PruneResult result = prune(query_map, key_map, queries, keys, found, insist);
  const int64_t patches = query_map.rows * query_map.columns;
  if (!result.complete) {
    for (int64_t rank = 0; rank < found.topk; rank++) {
      std::fill_n(found.score + rank * found.rank_stride, patches, -kInfinity);
      std::fill_n(found.index + rank * found.rank_stride, patches, -1);
    }
    search_all<float>(query_map, key_map, found);
    return {result.rescored_pairs, queries};
  }
  // As there are keys, every query has an index but those that were given up.
  int64_t left = 0;
  for (int64_t i = 0; i < patches; i++) left += query_map.takes_part_at(i) && found.index[i] < 0;
  if (left > 0) {
    const std::unique_ptr<bool[]> mask(new bool[patches]);
    for (int64_t i = 0; i < patches; i++) mask[i] = query_map.takes_part_at(i) && found.index[i] < 0;
    Map<Element> rest = query_map;
    rest.mask = mask.get();
    search_all<float>(rest, key_map, found);
  }
  return {result.rescored_pairs, left};
}

}  // namespace patchswap
