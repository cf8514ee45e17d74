// The dense search: every query with every key, in full precision.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <mutex>
#include <vector>

#include "best.h"
#include "match_kernels.h"
#include "pack.h"
#include "schedule.h"

namespace patchswap {

// Limits of a tile: blocks of 60 x 272 numbers stay in a core's L2 cache; rows bound the memory of a tile.
constexpr int64_t kMostQuerySlots = 60;
constexpr int64_t kMostKeySlots = 256;
constexpr int64_t kMostTileRows = 64;
// Bytes of packed cells that are held of each map at a time.
constexpr int64_t kPackedBytes = 20 << 20;

// What a thread keeps while it works on the queries of one tile.
template <class Sum>
struct DenseWorker {
  Buffer<Sum> numbers;
  std::vector<Sum> score;
  std::vector<int64_t> index;

  Best<Sum> best(int64_t topk) { return {topk, topk, 1, score.data(), index.data()}; }
  void clear() {
    std::fill(score.begin(), score.end(), -std::numeric_limits<Sum>::infinity());
    std::fill(index.begin(), index.end(), -1);
  }
};

// The most slots and patches of a tile, and the slots that all tiles' rows of patches have together.
struct TileSizes {
  int64_t slots = 0, patches = 0, all_slots = 0;

  explicit TileSizes(const std::vector<Outline>& tiles) {
    for (const Outline& tile : tiles) {
      slots = std::max(slots, tile.slots);
      patches = std::max(patches, tile.rows * tile.slots);
      all_slots += tile.rows * tile.slots;
    }
  }
};

// Rankings of the queries of a chunk become scores (metric.h).
template <class Sum>
void rankings_to_scores(const PackedChunk<Sum>& chunk, Metric metric, const Best<Sum>& found) {
  for (size_t i = 0; i < chunk.tiles.size(); i++) {
    const Tile& tile = chunk.contents[i];
    for (int64_t at = 0; at < tile.rows * tile.slots; at++) {
      const int64_t query = tile.patch[at];
      if (query < 0) continue;
      const Sum most = metric == Metric::kL2 ? Sum(0) : std::numeric_limits<Sum>::infinity();
      for (int64_t rank = 0; rank < found.topk && found.index[query + rank * found.rank_stride] >= 0; rank++) {
        found.to_score(query, rank, chunk.scale[i][at], most);
      }
    }
  }
}

// Finds the best keys of every query of one sample. `found` counts queries on the query map's patch grid.
template <class Sum, class Element>
void search_all(const Map<Element>& query_map, const Map<Element>& key_map, const Best<Sum>& found) {
  const DenseKernel<Sum> kernel = dense_kernel<Sum>();
  const int64_t patch_size = query_map.patch_size, cell_bytes = query_map.channels * sizeof(Sum), topk = found.topk;
  const std::vector<Outline> queries =
      cut_compactly(query_map, {kernel.query_panel.width, kMostQuerySlots, kMostTileRows});
  const std::vector<Outline> keys = cut_evenly(key_map, {kernel.key_panel.width, kMostKeySlots, kMostTileRows});
  if (queries.empty() || keys.empty()) return;
  const TileSizes query_sizes(queries), key_sizes(keys);
  const int64_t threads = threads_worth(query_sizes.all_slots * key_sizes.all_slots * (query_map.channels + 1));
  std::vector<DenseWorker<Sum>> workers(threads);
  const int64_t block_numbers = WalkBuffers<Sum>::numbers(query_sizes.slots, key_sizes.slots, patch_size);
  for (DenseWorker<Sum>& worker : workers) {
    worker.numbers = Buffer<Sum>(block_numbers + key_sizes.slots);
    std::fill_n(worker.numbers.get(), block_numbers, Sum(0));
    worker.score.resize(query_sizes.patches * topk);
    worker.index.resize(query_sizes.patches * topk);
    worker.clear();
  }
  ChunkPacker<Sum> query_packer, key_packer;
  std::mutex merging;

  for (size_t first = 0, end; first < queries.size(); first = end) {
    end = chunk_end(queries, first, patch_size, cell_bytes, kPackedBytes);
    const PackedChunk<Sum> query_chunk = query_packer.pack(query_map, queries, first, end, kernel.query_panel, true);
    for (size_t key_first = 0, key_end; key_first < keys.size(); key_first = key_end) {
      key_end = chunk_end(keys, key_first, patch_size, cell_bytes, kPackedBytes);
      const PackedChunk<Sum> key_chunk = key_packer.pack(key_map, keys, key_first, key_end, kernel.key_panel, false);
      auto work = [&](int64_t worker, const WorkItem& item) {
        const size_t query = item.query - first, key = item.key - key_first;
        Sum* numbers = workers[worker].numbers.get();
        const DenseTask<Sum> task{.query = query_chunk.tiles[query],
                                  .key = key_chunk.tiles[key],
                                  .query_bias = query_chunk.bias[query],
                                  .key_scale = key_chunk.scale[key],
                                  .key_bias = key_chunk.bias[key],
                                  .buffers = WalkBuffers<Sum>(numbers, query_sizes.slots, key_sizes.slots),
                                  .ranking = numbers + block_numbers,
                                  .best = workers[worker].best(topk)};
        for (int64_t difference = item.first_difference; difference < item.end_difference; difference += item.step) {
          kernel.search(patch_size, task, difference);
        }
      };
      auto finish = [&](int64_t worker, size_t query) {
        const std::lock_guard<std::mutex> lock(merging);
        const Tile& tile = query_chunk.contents[query - first];
        const Best<Sum> own = workers[worker].best(topk);
        for (int64_t i = 0; i < tile.rows * tile.slots; i++) {
          for (int64_t rank = 0; rank < topk && own.index[i * topk + rank] >= 0; rank++) {
            found.offer(tile.patch[i], own.score[i * topk + rank], own.index[i * topk + rank]);
          }
        }
        workers[worker].clear();
      };
      for_each_tile_pair(queries, first, end, keys, key_first, key_end, threads, 1, work, finish);
    }
    rankings_to_scores(query_chunk, query_map.metric, found);
  }
}

}  // namespace patchswap
