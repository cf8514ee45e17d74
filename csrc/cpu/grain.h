// How much work is worth a thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace patchswap {

// Waking a thread costs about as much as this many simple operations.
constexpr int64_t kOperationsWorthAThread = 1 << 16;

// Items to give to each thread of a parallel_for, when every item takes this many operations.
inline int64_t grain_size(int64_t operations_per_item) {
  return std::max<int64_t>(1, kOperationsWorthAThread / std::max<int64_t>(1, operations_per_item));
}

}  // namespace patchswap
