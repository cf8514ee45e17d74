// Pairs that the coarse bound does not rule out, and what a thread needs to score them. kernels/candidates.h takes them
// from the bound over the score in any order of summation to the dense search's own ranking.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "best.h"
#include "buffer.h"
#include "coarse.h"
#include "cost.h"
#include "exact.h"
#include "walk_buffers.h"

namespace patchswap {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kMostCandidates = 1 << 15;  // waiting in a thread
constexpr int64_t kReportedTogether = 256;   // full scores or refined bounds
// As multiples of the dense search's cost: what pruning may cost before it is judged, and the cost of the rest, at the
// rate so far, at which it stops. The second is high, as thresholds are low at the beginning.
constexpr double kTrialCost = 0.03, kHopelessCost = 1.5;

// A pair that the bound does not rule out: positions [rows][slots] in their tiles.
struct Candidate {
  int32_t query, key;
  float upper;         // bound of the ranking, in steps
  int32_t coarse = 0;  // the walk's sum
};

// A pair whose ranking has been computed, in dense_ranking()'s order of summation.
struct Resolved {
  int32_t query;  // [rows][slots]
  int64_t key;    // index in the key map's patch grid
  float ranking;
};

// What all threads together have done, in pairs, and whether they go on.
class Effort {
 public:
  std::atomic<int64_t> visited = 0, refined = 0, scored = 0;
  std::atomic<int64_t> left_to_dense = 0;  // pairs of the queries that the dense search takes over

  // `insists`: the search goes on whatever it costs.
  Effort(const SearchCosts& costs, double all_pairs, bool insists)
      : costs_(costs), all_pairs_(all_pairs), insists_(insists) {}

  bool has_stopped() const { return has_stopped_.load(std::memory_order_relaxed); }

  // Stops the search where the rest, at the rate so far, would cost more than a dense search of everything.
  void stop_if_hopeless() {
    if (!insists_ && is_hopeless()) has_stopped_ = true;
  }

 private:
  bool is_hopeless() const {
    const double extra = refined * costs_.refined + scored * costs_.scored + left_to_dense * costs_.dense;
    const double dense = all_pairs_ * costs_.dense, walked = static_cast<double>(visited);
    if (walked * costs_.walked + extra < kTrialCost * dense) return false;
    return (all_pairs_ - walked) * (costs_.walked + extra / std::max(walked, 1.0)) > kHopelessCost * dense;
  }

  const SearchCosts costs_;
  const double all_pairs_;
  const bool insists_;
  std::atomic<bool> has_stopped_ = false;
};

// A tile of one map as the pruned search sees it. Arrays are [rows][slots] but for `separate`. Where no patch takes
// part, factor and scale are 0, and weight is 0 for a query and -inf for a key.
struct CoarseTile {
  PackedTile<int32_t> words;
  const float* factor;          // step / norm
  const float* weight;          // of a query w, of a key w * factor: for what the walk adds up
  const float* refined_weight;  // the same for all axes
  const int8_t* separate;       // [cell rows][slots][separate_count] trailing integers outside the words
  const float *scale, *norm;    // 1 / norm, norm
  CellReader cells;
};

// The same for all tiles of a search.
struct PrunedSettings {
  int64_t channels;
  int64_t separate_count;
  float query_step;         // from steps to rankings
  double rescore_rounding;  // between fast_product() and dense_ranking(), relative to the norms
  int64_t most_scored;      // a query is left to the dense search beyond this many full scores
};

// One thread's memory.
struct PrunedWorker {
  Buffer<int32_t> blocks;
  WalkBuffers<int32_t> buffers;
  // Of one query with a row of keys, [key slots]:
  std::vector<float> upper;  // bounds in steps
  std::vector<int32_t> coarse;
  // Of the queries of a tile, [rows][slots]:
  std::vector<float>
      threshold;  // ranking in steps that a key must reach; inf where the query is left to the dense search
  std::vector<int32_t> scored;  // pairs scored in full
  // [topk]: the highest lower bounds of rankings, in steps, and their keys. While seeding, coarse scores.
  std::vector<float> lower_bound;
  std::vector<int64_t> lower_bound_key;
  Best<float> lower_bounds;  // the two arrays above
  std::vector<Candidate> candidates;
  size_t kept = 0;  // the first candidates, which have been scored in float32 and may be among the best
  std::vector<Resolved> resolved;
  int64_t visited = 0;  // pairs, not yet reported

  PrunedWorker(int64_t query_slots, int64_t key_slots, int64_t patches, int64_t patch_size, int64_t topk)
      : blocks(WalkBuffers<int32_t>::numbers(query_slots, key_slots, patch_size)),
        buffers(blocks.get(), query_slots, key_slots),
        upper(key_slots),
        coarse(key_slots),
        threshold(patches),
        scored(patches),
        lower_bound(patches * topk),
        lower_bound_key(patches * topk),
        lower_bounds{topk, topk, 1, lower_bound.data(), lower_bound_key.data()} {
    std::fill_n(blocks.get(), WalkBuffers<int32_t>::numbers(query_slots, key_slots, patch_size), 0);
    forget_queries();
  }
  PrunedWorker(PrunedWorker&&) = default;  // lower_bounds stays valid, as moved vectors keep their memory

  void forget_queries() {
    std::fill(scored.begin(), scored.end(), 0);
    std::fill(lower_bound.begin(), lower_bound.end(), -kInfinity);
    std::fill(lower_bound_key.begin(), lower_bound_key.end(), -1);
  }
};

// A thread's work on a pair of tiles.
struct PrunedTask {
  CoarseTile query, key;
  const PrunedSettings& settings;
  PrunedWorker& worker;
  Effort& effort;
  bool is_seeding;  // the walk offers coarse scores to worker.lower_bounds; else it lists candidates
};

}  // namespace patchswap
