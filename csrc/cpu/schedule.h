// The pairs of tiles, distributed among the threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "grain.h"
#include "tiles.h"

namespace patchswap {

// Some diagonals of one pair of tiles: every `step`-th from `first_difference` on, so that items take equally long.
struct WorkItem {
  size_t query, key;
  int64_t first_difference, end_difference, step;
};

// Number of threads worth waking for this many operations.
inline int64_t threads_worth(int64_t operations) {
  return std::clamp<int64_t>(operations / kOperationsWorthAThread, 1, torch::stable::get_num_threads());
}

// Calls work(worker, item) for all pairs of the tiles [first, end) of both maps, for every `stride`-th diagonal.
// Threads take items from a common counter, those of one query tile in succession. When a thread goes on to another
// query tile, and at the end, it calls finish(worker, query tile). `worker` counts from 0 to threads - 1.
template <class Work, class Finish>
void for_each_tile_pair(const std::vector<Outline>& queries, size_t query_first, size_t query_end,
                        const std::vector<Outline>& keys, size_t key_first, size_t key_end, int64_t threads,
                        int64_t stride, const Work& work, const Finish& finish) {
  const int64_t key_count = key_end - key_first, pairs = (query_end - query_first) * key_count;
  constexpr int64_t kItemsPerThread = 32;
  const int64_t parts = threads == 1 ? 1 : divide_up(kItemsPerThread * threads, std::max<int64_t>(pairs, 1) * stride);
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t worker, int64_t worker_end) {
    if (worker == worker_end) return;
    size_t current = query_end;
    for (int64_t item = next++; item < pairs * parts; item = next++) {
      const size_t query = query_first + item / parts / key_count, key = key_first + item / parts % key_count;
      if (query != current && current != query_end) finish(worker, current);
      current = query;
      // Tile pairs begin at different diagonals, so that those with few diagonals are among the chosen too.
      const int64_t lowest = 1 - keys[key].rows, shift = (query + key) % std::min(stride, key_count);
      work(worker, WorkItem{query, key, lowest + shift + item % parts * stride, queries[query].rows, parts * stride});
    }
    if (current != query_end) finish(worker, current);
  });
}

}  // namespace patchswap
