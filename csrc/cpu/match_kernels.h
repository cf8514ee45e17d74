// The inner loops of match for each instruction set, and the choice between them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "../dtype.h"
#include "bound.h"
#include "dense_kernel.h"
#include "instruction_set.h"
#include "pruned_kernel.h"

#define PATCHSWAP_KERNELS "kernels/match.h"
#include "each_instruction_set.h"

namespace patchswap {

template <class Sum>
DenseKernel<Sum> dense_kernel() {
#if defined(__x86_64__)
  if (instruction_set() >= InstructionSet::kAvx512) return avx512::dense_kernel<Sum>();
  if (instruction_set() == InstructionSet::kAvx2) return avx2::dense_kernel<Sum>();
#endif
  return generic::dense_kernel<Sum>();
}

inline PrunedKernel pruned_kernel() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAvx512Vnni) return avx512vnni::pruned_kernel();
  if (instruction_set() == InstructionSet::kAvx512) return avx512::pruned_kernel();
  if (instruction_set() == InstructionSet::kAvx2) return avx2::pruned_kernel();
#endif
  return generic::pruned_kernel();
}

}  // namespace patchswap
