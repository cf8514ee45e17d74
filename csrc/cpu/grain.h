// How much work is worth a thread.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace patchswap {

// Waking a thread costs about as much as this many simple operations.
constexpr int64_t kOperationsWorthAThread = 1 << 16;

// Items to give to each thread of a parallel_for, when every item takes this many operations.
inline int64_t grain_size(int64_t operations_per_item) {
  return std::max<int64_t>(1, kOperationsWorthAThread / std::max<int64_t>(1, operations_per_item));
}

// Calls work(item) for the items of [0, count), which threads take from a common counter.
template <class Work>
void share_items(int64_t count, int64_t operations, const Work& work) {
  const int64_t worth = std::max<int64_t>(1, operations / kOperationsWorthAThread);
  const int64_t threads = std::min<int64_t>({count, worth, torch::stable::get_num_threads()});
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t item = next++; item < count; item = next++) work(item);
  });
}

}  // namespace patchswap
