// The norm of a patch, of which its square is summed.
#pragma once

#include "device.cuh"
#include "limits.cuh"

namespace patchswap {

// One over the norm: 0 below the smallest normal number, NaN where not finite.
template <class Sum>
PATCHSWAP_DEVICE Sum inverse_norm(Sum square) {
  if (!(square <= Limits<Sum>::kLargest)) return not_a_number<Sum>();
  return square < Limits<Sum>::kSmallestNormal ? Sum(0) : 1 / square_root(square);
}

}  // namespace patchswap
