// Memory of the walk, kernels/walk.h.
#pragma once

#include <cstdint>

namespace patchswap {

// A thread's blocks. Rows have `stride` numbers; those beyond the key tile's slots are read but mean nothing.
template <class Sum>
struct WalkBuffers {
  int64_t stride = 0, block_size = 0;
  Sum* block = nullptr;   // [query slots][stride]: c of one pair of rows
  Sum* summed = nullptr;  // [p][query slots][stride]: the last p blocks, each summed over dx

  static int64_t numbers(int64_t query_slots, int64_t key_slots, int64_t patch_size) {
    return query_slots * (key_slots + 16) * (patch_size + 1);
  }
  WalkBuffers(Sum* memory, int64_t query_slots, int64_t key_slots)
      : stride(key_slots + 16), block_size(query_slots * stride), block(memory), summed(memory + block_size) {}
};

}  // namespace patchswap
