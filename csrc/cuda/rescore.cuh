// The last launch of the tensor-core match: of the runs of keys that the search kept for a query, the best key in
// float32, and its score.
//
// A block of 8 warps takes 8 neighbouring queries, a warp each. A warp scores a run of kRun neighbouring keys at once:
// its lanes share the channels, and each of the 3 x 10 cells that the run covers is read once and used for up to three
// keys. Every key adds its products in the same order, so equal patches have equal scores bit for bit, and the order in
// which runs come does not matter: of equal scores the lowest patch number wins.
//
// Where the search could not decide (more runs than a list holds reached the threshold, or the bound on its rounding is
// infinite), all 8 warps of the block share the keys of that query in float32.
#pragma once

#include <cstdint>

#include "candidate.cuh"
#include "device.cuh"
#include "problem.cuh"
#include "search.cuh"

namespace patchswap {

constexpr int kRescoreThreads = 256;
constexpr int kRescoreWarps = kRescoreThreads / kWarp;  // and queries per block
constexpr int kRunCells = kRun + kHalo;

// Dynamic shared memory: per warp whether its query is undecided, keys scored, and its best key of a query.
constexpr int kUndecidedAt = 0;
constexpr int kScoredAt = kUndecidedAt + kRescoreWarps * 4;
constexpr int kBestScoreAt = kScoredAt + kRescoreWarps * 4;
constexpr int kBestPatchAt = kBestScoreAt + kRescoreWarps * 4;
constexpr int kRescoreShared = kBestPatchAt + kRescoreWarps * 4;

// Four channels of a cell, read as one piece.
struct alignas(16) Quad {
  float channel[4];
};

// A key and its score as <q, k> / |k|.
struct Choice {
  float score;
  int patch;

  PATCHSWAP_DEVICE void take_better(float other_score, int other_patch) {
    if (other_score > score || (other_score == score && other_patch < patch)) {
      score = other_score;
      patch = other_patch;
    }
  }
};

// The exact scores of one query, by one warp.
class Rescorer {
 public:
  const int sample;

  PATCHSWAP_DEVICE Rescorer(const Problem& problem, int64_t query)
      : sample(static_cast<int>(query / problem.query.patches())), p(problem), lane(thread_index() % kWarp) {
    const int patch = static_cast<int>(query % p.query.patches()), columns = static_cast<int>(p.query.columns());
    const int64_t cell = sample * p.query.cell_count() + patch / columns * p.query.width + patch % columns;
    query_cells = reinterpret_cast<const Quad*>(p.query.exact) + cell * quads();
    key_cells = reinterpret_cast<const Quad*>(p.key.exact) + sample * p.key.cell_count() * quads();
  }

  // Scores the keys that begin at first_cell and the next kRun - 1 cells: the one of lane i enters the lane's choice.
  // Returns how many of them may be chosen; a run without any is not scored.
  PATCHSWAP_DEVICE int score_run(int first_cell, Choice& choice) const {
    const int key_cell_count = static_cast<int>(p.key.cell_count()), width = static_cast<int>(p.key.width);
    const int own_cell = first_cell + lane;
    float factor = not_a_number();
    if (lane < kRun && own_cell >= 0 && own_cell < key_cell_count) {
      factor = p.key_factor[sample * p.key.cell_count() + own_cell];
    }
    const bool is_valid = factor == factor;
    const int valid = count_bits(ballot(is_valid));
    if (valid == 0) return 0;

    float sum[kRun] = {};
    for (int quad = lane; quad < quads(); quad += kWarp) {
#pragma unroll 1  // one row of the run at a time: three would not fit into the registers
      for (int dy = 0; dy < kPatch; dy++) {
        Quad query[kPatch];
#pragma unroll
        for (int dx = 0; dx < kPatch; dx++) {
          query[dx] = query_cells[(dy * p.query.width + dx) * quads() + quad];
        }
#pragma unroll
        for (int i = 0; i < kRunCells; i++) {
          const int cell = first_cell + dy * width + i;
          Quad key{};
          if (cell >= 0 && cell < key_cell_count) key = key_cells[static_cast<int64_t>(cell) * quads() + quad];
#pragma unroll
          for (int dx = 0; dx < kPatch; dx++) {
            if (i - dx < 0 || i - dx >= kRun) continue;
#pragma unroll
            for (int c = 0; c < 4; c++) {
              sum[i - dx] = fused_multiply_add(query[dx].channel[c], key.channel[c], sum[i - dx]);
            }
          }
        }
      }
    }
    float own_sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kRun; i++) {
      for (int mask = kWarp / 2; mask > 0; mask /= 2) sum[i] += shuffle_xor(sum[i], mask);
      if (lane == i) own_sum = sum[i];
    }
    if (is_valid) {
      choice.take_better(own_sum * factor, own_cell / width * static_cast<int>(p.key.columns()) + own_cell % width);
    }
    return valid;
  }

  // The best of the lanes' choices, for all of them.
  PATCHSWAP_DEVICE static Choice best_of_warp(Choice choice) {
    for (int mask = kWarp / 2; mask > 0; mask /= 2) {
      const float score = shuffle_xor(choice.score, mask);
      choice.take_better(score, shuffle_xor(choice.patch, mask));
    }
    return choice;
  }

 private:
  PATCHSWAP_DEVICE int quads() const { return static_cast<int>(p.query.units) * (kUnit / 4); }

  const Problem& p;
  const Quad* query_cells;  // [..][quads] from the query's top-left cell on
  const Quad* key_cells;    // [key cells][quads]
  int lane;
};

// Writes the result of one query.
PATCHSWAP_DEVICE void write_result(const Problem& p, int64_t query, const Choice& choice) {
  p.index[query] = choice.patch;
  p.score[query] = choice.score / p.query_norm[query];
}

// Whether the bound on the coarse scores of a query says anything.
PATCHSWAP_DEVICE bool is_bounded(const Problem& p, int sample, int64_t query) {
  const float error = p.query_margin[query];
  return error + (p.query_scaled[query] + error) * relative_bound(p, sample) <= kLargestFloat;
}

inline int64_t rescore_blocks(const Problem& p) {
  return (p.batch * (p.query.height - kHalo) * (p.query.width - kHalo) + kRescoreWarps - 1) / kRescoreWarps;
}

// Grid: rescore_blocks(p). Shared memory: kRescoreShared bytes.
PATCHSWAP_KERNEL(kRescoreThreads)
rescore(const Problem p) {
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  const Shared<int> undecided = shared_memory<int>(kUndecidedAt, kRescoreWarps);
  const Shared<int> scored = shared_memory<int>(kScoredAt, kRescoreWarps);
  const Shared<float> best_score = shared_memory<float>(kBestScoreAt, kRescoreWarps);
  const Shared<int> best_patch = shared_memory<int>(kBestPatchAt, kRescoreWarps);

  const int64_t first_query = static_cast<int64_t>(block_index()) * kRescoreWarps, query = first_query + warp;
  int is_undecided = 0, keys_scored = 0;
  if (query < p.batch * p.query.patches()) {
    const int sample = static_cast<int>(query / p.query.patches());
    const float norm = p.query_norm[query];
    const int first_key = p.first_key[sample];
    if (!(norm > 0.0f) || first_key == kNoKey) {
      // Masked out (-1), not finite, without any key to choose, or zero, in this order.
      if (lane == 0) {
        const bool takes_first = norm == 0.0f && first_key != kNoKey;
        p.index[query] = takes_first ? first_key : -1;
        p.score[query] = norm != norm ? norm : takes_first ? 0.0f : -infinity();
      }
    } else {
      const uint64_t* list = p.list + query * p.list_length;
      int count = p.list_count[query];
      float bar = from_ordered(p.threshold[query]);
      if (p.best != nullptr) {
        list = p.best + query;
        count = *list != 0 ? 1 : 0;
        bar = -infinity();
      } else if (count > p.list_length || !is_bounded(p, sample, query)) {
        count = 0;
      }
      const Rescorer rescorer(p, query);
      Choice choice{-infinity(), first_key};
      for (int first = 0; first < count; first += kWarp) {
        // Each lane holds an entry; those that reach the final bar are scored one after the other.
        const uint64_t entry = first + lane < count ? list[first + lane] : 0;
        const int cell = entry_cell(entry);
        const uint32_t kept = ballot(entry != 0 && entry_score(entry) >= bar);
        for (int i = 0; i < kWarp; i++) {
          if (kept >> i & 1u) keys_scored += rescorer.score_run(shuffle(cell, i), choice);
        }
      }
      if (keys_scored == 0) {
        is_undecided = 1;
      } else {
        choice = Rescorer::best_of_warp(choice);
        if (lane == 0) write_result(p, query, choice);
      }
    }
  }
  if (lane == 0) {
    undecided.store(warp, is_undecided);
    scored.store(warp, keys_scored);
  }
  block_barrier();
  if (thread == 0) {
    int64_t keys = 0, queries = 0;
    for (int i = 0; i < kRescoreWarps; i++) {
      keys += scored.load(i);
      queries += undecided.load(i);
    }
    if (keys > 0) atomic_add(p.tally, keys);
    if (queries > 0) atomic_add(p.tally + 1, queries);
  }

  const int last_cell = static_cast<int>(p.key.rows() * p.key.width);
  for (int i = 0; i < kRescoreWarps; i++) {
    if (undecided.load(i) == 0) continue;
    const Rescorer rescorer(p, first_query + i);
    Choice choice{-infinity(), p.first_key[rescorer.sample]};
    for (int cell = warp * kRun; cell < last_cell; cell += kRescoreWarps * kRun) rescorer.score_run(cell, choice);
    choice = Rescorer::best_of_warp(choice);
    if (lane == 0) {
      best_score.store(warp, choice.score);
      best_patch.store(warp, choice.patch);
    }
    block_barrier();
    if (thread == 0) {
      for (int other = 1; other < kRescoreWarps; other++) {
        choice.take_better(best_score.load(other), best_patch.load(other));
      }
      write_result(p, first_query + i, choice);
    }
    block_barrier();
  }
}

}  // namespace patchswap
