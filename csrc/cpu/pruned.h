// The pruned search: a coarse score of every pair with a bound on its error, and the full score of those pairs that the
// bound cannot rule out. It finds what the dense search finds, bit for bit; queries for which it would not pay are
// handed to the dense search.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "coarse_packer.h"
#include "dense.h"
#include "plan.h"

namespace patchswap {

constexpr int64_t kMostCoarseQuerySlots = 60;
constexpr int64_t kMostCoarseKeySlots = 128;
constexpr int64_t kWholePairs = 1 << 30;  // as a stride of diagonals: shares are whole pairs of tiles
// A query is given up beyond this many full scores, and this many times what its dense search would cost.
constexpr int64_t kMostSpentBase = 128;
constexpr double kMostSpentShare = 4;

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
  if (!plan_coarse_cells(query_map, wanted_queries, key_map, wanted_keys, topk, kernel, insist, scheme, query_step,
                         key_step)) {
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
  const SearchCosts costs = costs_of(kernel, channels, patch_size);
  const int64_t most_spent =
      kMostSpentBase + static_cast<int64_t>(kMostSpentShare * wanted_keys * costs.dense / costs.scored);
  std::mutex merging;
  int64_t rescored_pairs = 0;
  Effort effort{.costs = costs, .all_pairs = static_cast<double>(wanted_queries) * key_sizes.all_slots};
  std::atomic<bool> is_worthwhile = true;

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
                       .rescore_rounding = rescore_rounding(channels, patch_size),
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
            effort.given_up += wanted_keys;
          }
        });
      };

      // The best keys by the coarse score alone, among some of the diagonals, are scored in full at first: good
      // thresholds make short work of the rest.
      std::vector<float> seed_score(queries_before.back() * topk, -kInfinity);
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
        if (!insist && effort.is_hopeless()) is_worthwhile = false;
      };
      auto nothing = [](int64_t, size_t) {};
      share_tile_pairs(queries, first, end, keys, key_first, key_end, threads, kSeedStride, find_seeds, nothing);
      share_tile_pairs(queries, first, end, keys, key_first, key_end, threads, kWholePairs, score_seeds, nothing);
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
