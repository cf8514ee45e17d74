// The pruned search: a coarse score of every pair with a bound on its error, and the full score of those pairs that the
// bound cannot rule out. It finds what the dense search finds, bit for bit. Queries for which it would cost too much
// are left to the dense search.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "coarse_packer.h"
#include "dense.h"
#include "plan.h"

namespace patchswap {

// Limits of a tile: three blocks of 60 x 144 integers stay in a core's L1 and L2 caches.
constexpr int64_t kMostCoarseQuerySlots = 60;
constexpr int64_t kMostCoarseKeySlots = 128;
// A stride of diagonals larger than any tile: a work item is a whole pair of tiles.
constexpr int64_t kWholePairs = 1 << 30;
// A query is left to the dense search beyond this many full scores, and as many more as cost this multiple of its own
// dense search. The multiple is large: for whatever number of queries is left, the dense search packs all keys.
constexpr int64_t kFreeScores = 128;
constexpr double kMostScoredCost = 10;

// How a pruned search went.
struct PruneResult {
  bool complete = false;  // else nothing is found and everything is left to the dense search
  int64_t scored_pairs = 0;
};

// Searches for the best keys of the queries of one sample. Of a query that is left to the dense search, the index stays
// -1. Unless `insist`, the search stops where that happens to many.
template <class Element>
class PrunedSearch {
 public:
  PrunedSearch(const Map<Element>& query_map, const Map<Element>& key_map, int64_t query_count, int64_t key_count,
               const CoarsePlan& plan, const PrunedKernel& kernel, const Best<float>& found, bool insist)
      : kernel_(kernel),
        patch_size_(query_map.patch_size),
        topk_(found.topk),
        key_count_(key_count),
        found_(found),
        queries_(cut_compactly(query_map, {kernel.query_panel(), kMostCoarseQuerySlots, kMostTileRows})),
        keys_(cut_evenly(key_map, {kernel.key_panel(), kMostCoarseKeySlots, kMostTileRows})),
        query_sizes_(queries_),
        key_sizes_(keys_),
        threads_(threads_worth(query_sizes_.all_slots * key_sizes_.all_slots * (query_map.channels / 8 + 1))),
        query_packer_(query_map, queries_, plan.scheme, kernel, plan.query_step, true),
        key_packer_(key_map, keys_, plan.scheme, kernel, plan.key_step, false),
        costs_(costs_of(kernel, query_map.channels, patch_size_)),
        settings_{.channels = query_map.channels,
                  .separate_count = plan.scheme.separate_count,
                  .query_step = static_cast<float>(plan.query_step),
                  .rescore_rounding = rescore_rounding(query_map.channels, patch_size_),
                  .most_scored =
                      kFreeScores + static_cast<int64_t>(kMostScoredCost * key_count * costs_.dense / costs_.scored)},
        effort_(costs_, static_cast<double>(query_count) * key_sizes_.all_slots, insist) {
    for (int64_t i = 0; i < threads_; i++) {
      workers_.emplace_back(query_sizes_.slots, key_sizes_.slots, query_sizes_.patches, patch_size_, topk_);
    }
  }

  PruneResult run() {
    const int64_t seed_bytes = topk_ * (sizeof(float) + sizeof(int64_t));
    for (size_t first = 0, end; first < queries_.size(); first = end) {
      end = chunk_end(queries_, first, patch_size_, query_packer_.cell_bytes() + seed_bytes, kPackedBytes);
      begin_queries(first, end);
      const std::vector<std::pair<size_t, size_t>> chunks = key_chunks();
      // Thresholds from the seeds of all keys, before any key is searched: those of the first keys alone rule out
      // little. Then backwards, as the last chunk is packed already.
      for (const auto& [key_first, key_end] : chunks) {
        if (!pack_keys(key_first, key_end)) return {.complete = false, .scored_pairs = scored_pairs_};
        seed_chunks();
      }
      for (auto chunk = chunks.rbegin(); chunk != chunks.rend(); chunk++) {
        if (chunk != chunks.rbegin()) pack_keys(chunk->first, chunk->second);
        for_each_item(1, [&](PrunedWorker& worker, const WorkItem& item) { search(worker, item); });
        if (effort_.has_stopped()) return {.complete = false, .scored_pairs = scored_pairs_};
      }
      finish_queries();
    }
    return {.complete = true, .scored_pairs = scored_pairs_};
  }

 private:
  static constexpr int32_t kLeftToDense = -1;

  // Tiles that are packed at the same time.
  struct Chunk {
    size_t first = 0, end = 0;
    CoarseChunk packed;
  };

  // ---- one chunk of queries

  void begin_queries(size_t first, size_t end) {
    query_chunk_ = {first, end, query_packer_.pack(first, end)};
    scored_.clear();
    queries_before_ = {0};
    for (size_t i = first; i < end; i++) {
      scored_.emplace_back(queries_[i].rows * queries_[i].slots);
      queries_before_.push_back(queries_before_.back() + queries_[i].rows * queries_[i].slots);
    }
  }

  // Calls visit(position in the tile, index on the patch grid) for the queries of a tile that take part.
  template <class Visit>
  void for_each_query(size_t tile, const Visit& visit) const {
    const size_t i = tile - query_chunk_.first;
    const Tile& contents = query_chunk_.packed.contents[i];
    for (int64_t at = 0; at < contents.rows * contents.slots; at++) {
      if (query_chunk_.packed.tiles[i].weight[at] != 0) visit(at, contents.patch[at]);
    }
  }

  // Rankings become scores. Of queries that are left to the dense search nothing stays.
  void finish_queries() {
    for (size_t tile = query_chunk_.first; tile < query_chunk_.end; tile++) {
      const size_t i = tile - query_chunk_.first;
      for_each_query(tile, [&](int64_t at, int64_t query) {
        for (int64_t rank = 0; rank < topk_; rank++) {
          int64_t& index = found_.index[query + rank * found_.rank_stride];
          if (scored_[i][at] == kLeftToDense) {
            found_.score[query + rank * found_.rank_stride] = -kInfinity;
            index = -1;
          } else if (index >= 0) {
            found_.to_score(query, rank, query_chunk_.packed.tiles[i].scale[at]);
          }
        }
      });
    }
  }

  // ---- a chunk of queries and a chunk of keys

  // Key tiles [first, second) that are packed at the same time.
  std::vector<std::pair<size_t, size_t>> key_chunks() const {
    std::vector<std::pair<size_t, size_t>> chunks;
    for (size_t first = 0, end; first < keys_.size(); first = end) {
      end = chunk_end(keys_, first, patch_size_, key_packer_.cell_bytes(), kPackedBytes);
      chunks.emplace_back(first, end);
    }
    return chunks;
  }

  // False where a key's norm is too small to prune.
  bool pack_keys(size_t first, size_t end) {
    key_chunk_ = {first, end, key_packer_.pack(first, end)};
    return !key_packer_.too_small();
  }

  // Seeds are the best keys by the coarse score alone among some of the diagonals. They are scored in full first, as
  // high thresholds from the start rule out most other pairs.
  void seed_chunks() {
    seed_score_.assign(queries_before_.back() * topk_, -kInfinity);
    seed_key_.assign(queries_before_.back() * topk_, -1);
    for_each_item(kSeedStride, [&](PrunedWorker& worker, const WorkItem& item) { find_seeds(worker, item); });
    for_each_item(kWholePairs, [&](PrunedWorker& worker, const WorkItem& item) { score_seeds(worker, item); });
  }

  // Calls work(worker, item) for all pairs of tiles of the two chunks.
  template <class Work>
  void for_each_item(int64_t stride, const Work& work) {
    for_each_tile_pair(
        queries_, query_chunk_.first, query_chunk_.end, keys_, key_chunk_.first, key_chunk_.end, threads_, stride,
        [&](int64_t worker, const WorkItem& item) { work(workers_[worker], item); }, [](int64_t, size_t) {});
  }

  PrunedTask task_of(PrunedWorker& worker, const WorkItem& item, bool is_seeding) {
    return {.query = query_chunk_.packed.tiles[item.query - query_chunk_.first],
            .key = key_chunk_.packed.tiles[item.key - key_chunk_.first],
            .settings = settings_,
            .worker = worker,
            .effort = effort_,
            .is_seeding = is_seeding};
  }

  void walk(const PrunedTask& task, const WorkItem& item) const {
    for (int64_t d = item.first_difference; d < item.end_difference && !effort_.has_stopped(); d += item.step) {
      kernel_.search(patch_size_, task, d);
    }
  }

  // Of the queries and keys in the tiles of an item, the first in all tiles of their chunks.
  int64_t first_query(const WorkItem& item) const { return queries_before_[item.query - query_chunk_.first]; }
  int64_t first_key(const WorkItem& item) const { return (item.key - key_chunk_.first) * key_sizes_.patches; }

  void find_seeds(PrunedWorker& worker, const WorkItem& item) {
    worker.forget_queries();
    std::fill(worker.threshold.begin(), worker.threshold.end(), -kInfinity);
    walk(task_of(worker, item, true), item);
    const std::lock_guard<std::mutex> lock(merging_);
    const Best<float> seeds{topk_, topk_, 1, seed_score_.data(), seed_key_.data()};
    for_each_query(item.query, [&](int64_t i, int64_t) {
      for (int64_t at = i * topk_; at < (i + 1) * topk_ && worker.lower_bound_key[at] >= 0; at++) {
        seeds.offer(first_query(item) + i, worker.lower_bound[at], first_key(item) + worker.lower_bound_key[at]);
      }
    });
  }

  void score_seeds(PrunedWorker& worker, const WorkItem& item) {
    read(worker, item.query);
    for_each_query(item.query, [&](int64_t i, int64_t) {
      for (int64_t rank = 0; rank < topk_; rank++) {
        const int64_t key = seed_key_[(first_query(item) + i) * topk_ + rank] - first_key(item);
        if (key < 0 || key >= key_sizes_.patches) continue;
        worker.candidates.push_back({static_cast<int32_t>(i), static_cast<int32_t>(key), kInfinity});
      }
    });
    kernel_.resolve(patch_size_, task_of(worker, item, false));
    write(worker, item.query);
  }

  void search(PrunedWorker& worker, const WorkItem& item) {
    if (effort_.has_stopped()) return;
    read(worker, item.query);
    const PrunedTask task = task_of(worker, item, false);
    walk(task, item);
    kernel_.resolve(patch_size_, task);
    write(worker, item.query);
    effort_.stop_if_hopeless();
  }

  // Thresholds of the queries of a tile, from what all workers have found.
  void read(PrunedWorker& worker, size_t tile) {
    worker.forget_queries();
    const std::lock_guard<std::mutex> lock(merging_);
    for_each_query(tile, [&](int64_t i, int64_t query) {
      const bool is_left = scored_[tile - query_chunk_.first][i] == kLeftToDense;
      worker.threshold[i] = is_left ? kInfinity : found_.worst(query) / settings_.query_step;
    });
  }

  // Adds what a worker has found for the queries of a tile.
  void write(PrunedWorker& worker, size_t tile) {
    const std::lock_guard<std::mutex> lock(merging_);
    const Tile& contents = query_chunk_.packed.contents[tile - query_chunk_.first];
    for (const Resolved& pair : worker.resolved) {
      const int64_t query = contents.patch[pair.query];
      if (!is_found(query, pair.key)) found_.offer(query, pair.ranking, pair.key);
    }
    worker.resolved.clear();
    for_each_query(tile, [&](int64_t i, int64_t) {
      int32_t& total = scored_[tile - query_chunk_.first][i];
      scored_pairs_ += worker.scored[i];
      if (total == kLeftToDense) return;
      total += worker.scored[i];
      if (total > settings_.most_scored) {
        total = kLeftToDense;
        effort_.left_to_dense += key_count_;
      }
    });
  }

  // Whether a key is among the best already, as a seed is.
  bool is_found(int64_t query, int64_t key) const {
    bool is_found = false;
    for (int64_t rank = 0; rank < topk_; rank++) is_found |= found_.index[query + rank * found_.rank_stride] == key;
    return is_found;
  }

  const PrunedKernel kernel_;
  const int64_t patch_size_, topk_, key_count_;
  const Best<float> found_;  // by index on the query map's patch grid; rankings until a chunk of queries is finished
  const std::vector<Outline> queries_, keys_;
  const TileSizes query_sizes_, key_sizes_;
  const int64_t threads_;
  CoarsePacker<Element> query_packer_, key_packer_;
  const SearchCosts costs_;
  const PrunedSettings settings_;
  Effort effort_;
  std::vector<PrunedWorker> workers_;  // one for each thread
  Chunk query_chunk_, key_chunk_;
  std::mutex merging_;                        // for found_, the seeds and what follows
  std::vector<std::vector<int32_t>> scored_;  // pairs scored in full for each query of the chunk, or kLeftToDense
  std::vector<int64_t> queries_before_;       // in the tiles of the chunk before each
  std::vector<float> seed_score_;             // [queries of the chunk][topk]
  std::vector<int64_t> seed_key_;             // positions in all tiles of the key chunk
  int64_t scored_pairs_ = 0;
};

// Finds the best keys of every query of one sample, as search_all() does, bit for bit. Returns {pairs scored in full,
// queries left to the dense search}. Unless `insist`, these are all queries where pruning is not expected to pay, or
// stops because it does not.
template <class Element>
std::pair<int64_t, int64_t> search_pruned(const Map<Element>& query_map, const Map<Element>& key_map,
                                          const Best<float>& found, bool insist) {
  const int64_t queries = query_map.patches_taking_part(), keys = key_map.patches_taking_part();
  if (queries == 0 || keys == 0) return {0, 0};
  const PrunedKernel kernel = pruned_kernel();
  const std::optional<CoarsePlan> plan =
      plan_coarse_cells(query_map, queries, key_map, keys, found.topk, kernel, insist);
  PruneResult result;
  if (plan) {
    result = PrunedSearch<Element>(query_map, key_map, queries, keys, *plan, kernel, found, insist).run();
  }
  const int64_t patches = query_map.rows * query_map.columns;
  if (!result.complete) {
    for (int64_t rank = 0; rank < found.topk; rank++) {
      std::fill_n(found.score + rank * found.rank_stride, patches, -kInfinity);
      std::fill_n(found.index + rank * found.rank_stride, patches, -1);
    }
    search_all<float>(query_map, key_map, found);
    return {result.scored_pairs, queries};
  }
  // As there are keys, every query has an index but those that are left.
  int64_t left = 0;
  for (int64_t i = 0; i < patches; i++) left += query_map.takes_part_at(i) && found.index[i] < 0;
  if (left > 0) {
    const std::unique_ptr<bool[]> mask(new bool[patches]);
    for (int64_t i = 0; i < patches; i++) mask[i] = query_map.takes_part_at(i) && found.index[i] < 0;
    Map<Element> rest = query_map;
    rest.mask = mask.get();
    search_all<float>(rest, key_map, found);
  }
  return {result.scored_pairs, left};
}

}  // namespace patchswap
