// The norm of a patch, of which its square is summed.
#pragma once

#include "device.cuh"

namespace patchswap {

// One over the norm: 0 below the smallest normal number, NaN where not finite.
PATCHSWAP_DEVICE float inverse_norm(float square) {
  if (!(square <= 3.402823466e38f)) return float_of(0x7fc00000u);
  return square < 1.175494351e-38f ? 0.0f : 1.0f / square_root(square);
}
PATCHSWAP_DEVICE double inverse_norm(double square) {
  if (!(square <= 1.7976931348623157e308)) return static_cast<double>(float_of(0x7fc00000u));
  return square < 2.2250738585072014e-308 ? 0.0 : 1.0 / square_root(square);
}

}  // namespace patchswap
