// Pairs that the coarse bound does not rule out: from the bound over the score in any order of summation to the dense
// search's own ranking.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "best.h"
#include "coarse.h"
#include "cost.h"
#include "exact.h"
#include "walk_buffers.h"

namespace patchswap {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kMostCandidates = 1 << 15;  // waiting in a thread
constexpr int64_t kReportedTogether = 256;   // full scores or refined bounds
// Pruning is judged once it has cost the first share of the dense search, and stopped where the rest is to cost the
// second, at the rate so far: a high one, as thresholds are low at the beginning.
constexpr double kTrialShare = 0.03, kHopeless = 1.5;

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

// What all threads together have done, in pairs.
struct Effort {
  SearchCosts costs;
  double all_pairs;
  std::atomic<int64_t> visited = 0, refined = 0, scored = 0;
  std::atomic<int64_t> given_up = 0;  // left to the dense search, with their queries

  // Whether the rest, at the rate of what has been done, would cost more than a dense search of everything.
  bool is_hopeless() const {
    const double extra = refined * costs.refined + scored * costs.scored + given_up * costs.dense;
    const double dense = all_pairs * costs.dense, walked = static_cast<double>(visited);
    if (walked * costs.walked + extra < kTrialShare * dense) return false;
    return (all_pairs - walked) * (costs.walked + extra / std::max(walked, 1.0)) > kHopeless * dense;
  }
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

}  // namespace patchswap
