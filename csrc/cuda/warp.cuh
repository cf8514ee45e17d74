// What the 32 lanes of a warp make together of a number that each of them holds: all call, and each gets the result.
// Places of bits in their votes.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace patchswap {

// The order of additions is the same for every lane and every call.
template <class Number>
PATCHSWAP_DEVICE Number sum_of_warp(Number value) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

PATCHSWAP_DEVICE int largest_of_warp(int value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const int other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

PATCHSWAP_DEVICE uint32_t union_of_warp(uint32_t bits) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    bits |= static_cast<uint32_t>(shuffle_xor(static_cast<int>(bits), mask));
  }
  return bits;
}

// Numbers of the lowest and of the highest set bit; bits must not be 0.
PATCHSWAP_DEVICE int lowest_bit(uint32_t bits) { return count_bits((bits & (0u - bits)) - 1); }
PATCHSWAP_DEVICE int highest_bit(uint32_t bits) {
  for (int distance = 1; distance < 32; distance *= 2) bits |= bits >> distance;
  return count_bits(bits) - 1;
}

}  // namespace patchswap
