// Every name of csrc/cuda/hopper.cuh, by its meaning; see emulated_device.h and emulator.h.
#pragma once

#include <cstdint>

#include "emulated_device.h"

namespace patchswap {

// Registers are not counted here; the numbers must be ones that the instruction takes.
template <int Count>
void give_up_registers() {
  static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0);
}
template <int Count>
void take_registers() {
  static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0);
}

// ---- copy barriers

inline void start_copy_barrier(Shared<uint64_t> barriers, int index, int arrivals, Where where = Where::current()) {
  emulation::start_copy_barrier(barriers.address(index, where), arrivals, where);
}
inline void fence_for_started_barriers() { emulation::fence_for_started_barriers(); }
inline void arrive_at_copy_barrier(Shared<uint64_t> barriers, int index, Where where = Where::current()) {
  emulation::arrive_at_copy_barrier(barriers.address(index, where), where);
}
inline void arrive_and_announce(Shared<uint64_t> barriers, int index, int bytes, Where where = Where::current()) {
  emulation::announce_bytes(barriers.address(index, where), bytes, where);
  emulation::arrive_at_copy_barrier(barriers.address(index, where), where);
}
inline void wait_at_copy_barrier(Shared<uint64_t> barriers, int index, int parity, Where where = Where::current()) {
  emulation::wait_at_copy_barrier(barriers.address(index, where), parity, where);
}

inline void bulk_copy_async(Shared<Words> target, int index, const void* source, int bytes, Shared<uint64_t> barriers,
                            int barrier, Where where = Where::current()) {
  if (bytes < 16 || bytes % 16 != 0) emulation::fault(where, "a bulk copy of %d bytes, not a multiple of 16", bytes);
  target.address(index + bytes / 16 - 1, where);  // the last word must be one of the target's too
  emulation::issue_bulk_copy(target.address(index, where), source, static_cast<uint32_t>(bytes),
                             barriers.address(barrier, where), where);
}

inline void fence_for_async_proxy() { emulation::fence_for_asynchronous_reads(); }

// ---- matrix products

inline void fence_products(Where where = Where::current()) { emulation::fence_products(where); }
inline void multiply_add_async(float (&d)[64], uint64_t a, uint64_t b, bool accumulate,
                               Where where = Where::current()) {
  emulation::issue_product(d, 128, a, b, accumulate, where);
}
inline void commit_products(Where where = Where::current()) { emulation::commit_products(where); }
template <int Pending>
void wait_for_products(Where where = Where::current()) {
  emulation::wait_for_products(Pending, where);
}
inline void wait_for_products(float (&)[64], Where where = Where::current()) { emulation::wait_for_products(0, where); }

}  // namespace patchswap
