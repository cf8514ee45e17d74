// What the pruned search needs of one instruction set.
#pragma once

#include <cstdint>

#include "basis.h"
#include "candidates.h"
#include "encode.h"

namespace patchswap {

// The pruned search compiled for one instruction set.
struct PrunedKernel {
  BasisKernel basis;
  bool takes_quads;  // the walk takes quads of trailing integers; else these are stored separately
  void (*add_squares)(const float* row, int64_t slots, int64_t channels, double* squares);  // of a key panel
  void (*encode)(const EncodeTask& task);
  void (*search)(int64_t patch_size, const PrunedTask& task, int64_t difference);
  void (*resolve)(int64_t patch_size, const PrunedTask& task);

  int64_t query_panel() const { return basis.products.left_panel; }
  int64_t key_panel() const { return basis.products.right_panel; }
};

}  // namespace patchswap
