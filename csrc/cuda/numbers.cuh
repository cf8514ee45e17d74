// Numbers that lie side by side, read or written as one access of 16 bytes.
#pragma once

namespace patchswap {

template <class Number>
struct alignas(16) Numbers {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(Number));
  Number number[kCount];
};

}  // namespace patchswap
