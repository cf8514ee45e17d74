// The ends of float and double, for device code: numeric_limits' functions are not callable there.
#pragma once

#include <limits>

#include "device.cuh"

namespace patchswap {

template <class Number>
struct Limits {
  static constexpr Number kLargest = std::numeric_limits<Number>::max();
  static constexpr Number kSmallestNormal = std::numeric_limits<Number>::min();
};

template <class Number = float>
PATCHSWAP_DEVICE Number infinity() {
  return static_cast<Number>(float_of(0x7f800000u));
}
template <class Number = float>
PATCHSWAP_DEVICE Number not_a_number() {
  return static_cast<Number>(float_of(0x7fc00000u));
}

}  // namespace patchswap
