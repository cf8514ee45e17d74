// The last launch of the tensor-core match: of the runs of keys that the search kept for a query, the best key in
// float32, and its score.
//
// A block of 8 warps works on 8 queries at a time. Each warp takes one query. A query with many runs left is scored by
// all 8 warps afterwards, one such query after the other. Neighbouring queries go to different blocks, as many runs are
// left in smooth regions. A warp scores a run of kRun neighbouring keys at once: its lanes share the channels, and each
// of the 3 x 10 cells that the run covers is read once and used for up to three keys. Every key adds its products in
// the same order, so equal patches have equal scores bit for bit, and the order in which runs come does not matter: of
// equal scores the lowest patch number wins.
//
// Where the search could not decide (more runs than a list holds reached the threshold, or the bound on its rounding is
// infinite), all 8 warps of the block share the keys of that query in float32.
#pragma once

#include <cstdint>

#include "candidate.cuh"
#include "device.cuh"
#include "limits.cuh"
#include "numbers.cuh"
#include "problem.cuh"
#include "search.cuh"
#include "warp.cuh"

namespace patchswap {

constexpr int kRescoreThreads = 256;
constexpr int kRescoreWarps = kRescoreThreads / kWarp;           // and queries per block
constexpr int kRescoreBlocks = 2;                                // of a multiprocessor at a time
constexpr int kRescoreBound = kRescoreBlocks * kRescoreThreads;  // for the compiler: so many may reside
constexpr int kRunCells = kRun + kHalo;
constexpr int kMostOwnRuns = 4;  // that a warp scores by itself

// What is left to do for a query after its warp has seen it: nothing, score its list, or search in full.
constexpr int kDone = 0, kListed = 1, kUndecided = 2;

// Dynamic shared memory: per warp what is left for its query, keys scored, and its best key of a query.
constexpr int kLeftAt = 0;
constexpr int kScoredAt = kLeftAt + kRescoreWarps * 4;
constexpr int kBestScoreAt = kScoredAt + kRescoreWarps * 4;
constexpr int kBestPatchAt = kBestScoreAt + kRescoreWarps * 4;
constexpr int kRescoreShared = kBestPatchAt + kRescoreWarps * 4;

using Quad = Numbers<float>;  // four channels of a cell

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

// The runs that the search listed for a query.
struct Listed {
  const uint64_t* entries;
  int count;
  float threshold;  // runs below it hold no best key

  PATCHSWAP_DEVICE bool keeps(uint64_t entry) const { return entry != 0 && entry_score(entry) >= threshold; }

  // How many are kept, for all lanes.
  PATCHSWAP_DEVICE int count_kept() const {
    int kept = 0;
    for (int first = 0; first < count; first += kWarp) {
      const int place = first + thread_index() % kWarp;
      kept += count_bits(ballot(place < count && keeps(entries[place])));
    }
    return kept;
  }
};

// Of a query of `sample` that was searched for; none where the list does not decide.
PATCHSWAP_DEVICE Listed listed_runs(const Problem& p, int sample, int64_t query) {
  if (p.best != nullptr) return {p.best + query, 1, -infinity()};
  // No load depends on another, so that all are under way at once.
  const int length = list_length(p), listed = p.list_count[query], threshold = p.threshold[query];
  const float error = p.query_margin[query], scaled = p.query_scaled[query], relative = relative_bound(p, sample);
  const uint64_t* entries = list_of(p, query, length);
  const bool is_bounded = error + (scaled + error) * relative <= Limits<float>::kLargest;
  return {entries, listed <= length && is_bounded ? listed : 0, from_ordered(threshold)};
}

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
              sum[i - dx] = fused_multiply_add(query[dx].number[c], key.number[c], sum[i - dx]);
            }
          }
        }
      }
    }
    float own_sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kRun; i++) {
      const float whole = sum_of_warp(sum[i]);
      if (lane == i) own_sum = whole;
    }
    if (is_valid) {
      choice.take_better(own_sum * factor, own_cell / width * static_cast<int>(p.key.columns()) + own_cell % width);
    }
    return valid;
  }

  // Scores of the listed runs that are kept those that fall to warp `part` of `parts`. Returns how many keys these
  // were.
  PATCHSWAP_DEVICE int score_list(const Listed& listed, int part, int parts, Choice& choice) const {
    int keys = 0, turn = 0;  // whose the next run is
    for (int first = 0; first < listed.count; first += kWarp) {
      // Each lane holds an entry; those that are kept are scored one after the other.
      const uint64_t entry = first + lane < listed.count ? listed.entries[first + lane] : 0;
      const int cell = entry_cell(entry);
      const uint32_t kept = ballot(listed.keeps(entry));
      for (int i = 0; i < kWarp; i++) {
        if (!(kept >> i & 1u)) continue;
        if (turn == part) keys += score_run(shuffle(cell, i), choice);
        turn = turn + 1 < parts ? turn + 1 : 0;
      }
    }
    return keys;
  }

  // Scores of all keys those runs that fall to warp `part` of `parts`.
  PATCHSWAP_DEVICE void score_all(int part, int parts, Choice& choice) const {
    const int last_cell = static_cast<int>(p.key.rows() * p.key.width);
    for (int cell = part * kRun; cell < last_cell; cell += parts * kRun) score_run(cell, choice);
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
PATCHSWAP_DEVICE void write_result(const Problem& p, int64_t query, float norm, const Choice& choice) {
  p.index[query] = choice.patch;
  p.score[query] = choice.score / norm;
  if (p.ranking != nullptr) p.ranking[query] = choice.score;
}

// As many as are at work at the same time, or as all queries can keep busy.
inline int64_t rescore_blocks(const Problem& p, int64_t processors) {
  const int64_t most = (p.batch * p.query.patches() + kRescoreWarps - 1) / kRescoreWarps;
  return most < kRescoreBlocks * processors ? most : kRescoreBlocks * processors;
}

// Any number of blocks. Shared memory: kRescoreShared bytes.
PATCHSWAP_KERNEL(kRescoreBound)
rescore(const Problem p) {
  wait_for_launch_before();
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  const Shared<int> left = shared_memory<int>(kLeftAt, kRescoreWarps);
  const Shared<int> scored = shared_memory<int>(kScoredAt, kRescoreWarps);
  const Shared<float> best_score = shared_memory<float>(kBestScoreAt, kRescoreWarps);
  const Shared<int> best_patch = shared_memory<int>(kBestPatchAt, kRescoreWarps);

  const int queries = *p.list_users, rounds = (queries + kRescoreWarps - 1) / kRescoreWarps;
  int keys_scored = 0, undecided = 0;
  for (int round = block_index(); round < rounds; round += block_count()) {
    // The query of warp i has this number among those that are searched for.
    const auto place_of = [&](int i) { return i * rounds + round; };
    int is_left = kDone;
    if (place_of(warp) < queries) {
      const int64_t query = p.list_user[place_of(warp)];
      const Rescorer rescorer(p, query);
      const int lowest = first_key(p, rescorer.sample);
      const float norm = p.query_norm[query];
      const Listed listed = listed_runs(p, rescorer.sample, query);  // loaded before anything is decided
      if (lowest < 0 || norm == 0.0f) {
        if (lane == 0) {
          p.index[query] = lowest;
          p.score[query] = lowest < 0 ? -infinity() : 0.0f;
          if (p.ranking != nullptr) p.ranking[query] = p.score[query];
        }
      } else {
        const int kept = listed.count_kept();
        is_left = kept > kMostOwnRuns ? kListed : kUndecided;
        if (kept > 0 && kept <= kMostOwnRuns) {
          Choice choice{-infinity(), lowest};
          const int keys = rescorer.score_list(listed, 0, 1, choice);
          choice = Rescorer::best_of_warp(choice);
          keys_scored += keys;
          if (keys > 0) is_left = kDone;
          if (keys > 0 && lane == 0) write_result(p, query, norm, choice);
        }
      }
    }
    if (lane == 0) left.store(warp, is_left);
    block_barrier();

    for (int i = 0; i < kRescoreWarps; i++) {
      if (left.load(i) == kDone) continue;
      const int64_t query = p.list_user[place_of(i)];
      const Rescorer rescorer(p, query);
      Choice choice{-infinity(), first_key(p, rescorer.sample)};
      if (left.load(i) == kListed) {
        keys_scored += rescorer.score_list(listed_runs(p, rescorer.sample, query), warp, kRescoreWarps, choice);
      } else {
        rescorer.score_all(warp, kRescoreWarps, choice);
        undecided++;
      }
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
        write_result(p, query, p.query_norm[query], choice);
      }
      block_barrier();
    }
    block_barrier();  // before the next round says what is left
  }

  if (lane == 0) scored.store(warp, keys_scored);
  block_barrier();
  if (thread == 0) {
    int64_t keys = 0;
    for (int i = 0; i < kRescoreWarps; i++) keys += scored.load(i);
    if (keys > 0) atomic_add(p.tally, keys);
    if (undecided > 0) atomic_add(p.tally + 1, static_cast<int64_t>(undecided));
  }
}

}  // namespace patchswap
