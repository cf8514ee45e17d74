// A candidate: a run of kRun keys, named by its first cell, and the best coarse score in it, packed into one word whose
// order as an unsigned number is that of preference: the higher score, then the lower cell. 0 comes below every
// candidate, so a word that starts at 0 holds none yet. The first cell may be negative: a run need not begin in the
// map.
#pragma once

#include <cstdint>

#include "device.cuh"
#include "problem.cuh"

namespace patchswap {

constexpr uint32_t kSignBit = 0x80000000u;  // flipping it carries the order of int32 over to uint32

// `score` must not be NaN. The sum makes 0 of -0: they are equal scores.
PATCHSWAP_DEVICE uint64_t list_entry(float score, int first_cell) {
  const uint32_t high = static_cast<uint32_t>(ordered(score + 0.0f)) ^ kSignBit;
  const uint32_t low = ~(static_cast<uint32_t>(first_cell) ^ kSignBit);
  return static_cast<uint64_t>(high) << 32 | low;
}

PATCHSWAP_DEVICE float entry_score(uint64_t entry) {
  return from_ordered(static_cast<int>(static_cast<uint32_t>(entry >> 32) ^ kSignBit));
}

PATCHSWAP_DEVICE int entry_cell(uint64_t entry) { return static_cast<int>(~static_cast<uint32_t>(entry) ^ kSignBit); }

}  // namespace patchswap
