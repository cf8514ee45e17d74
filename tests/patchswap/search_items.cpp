// How the searches on CUDA number their work, for test_cuda_items.py.

#include <cstdint>

#include "cuda/search.cuh"

// Finds item `number` where one sample has `groups` groups of queries, one row deep, and keys of height x width cells.
// What it finds: tile and start. Returns whether there is such an item.
extern "C" bool find(int64_t number, int32_t groups, int64_t height, int64_t width, int32_t stretch, int64_t* found) {
  patchswap::Plan plan{groups, 1};
  patchswap::Problem problem{};
  problem.batch = 1;
  problem.plan = &plan;
  problem.key.height = height;
  problem.key.width = width;
  patchswap::Item item{};
  const bool exists = patchswap::item_at(problem, number, stretch, item);
  found[0] = item.tile;
  found[1] = item.first_cell;
  return exists;
}
