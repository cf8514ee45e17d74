// Every name of csrc/cuda/device.cuh, by its meaning, for kernels compiled by a host compiler; see emulator.h.
// Half precision is rounded to nearest even, and matrix products are summed as tensor cores sum them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "emulator.h"

#define PATCHSWAP_KERNEL(threads) [[maybe_unused]] static void
#define PATCHSWAP_DEVICE inline

namespace patchswap {

using emulation::Where;

struct Half {
  uint16_t bits;
};

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

struct alignas(16) Words {
  uint32_t word[4];
};

inline int thread_index() { return emulation::current->index; }
inline int block_index() { return emulation::current->block->index; }
inline int block_count() { return emulation::block_count(); }

// ---- shared memory

template <class T>
class Shared {
 public:
  static_assert(sizeof(T) % emulation::kGranule == 0, "accesses are told apart in steps of two bytes");

  Shared(int offset, int count) : offset_(offset), count_(count) {}

  T load(int index, Where where = Where::current()) const {
    T value;
    std::memcpy(&value, read(index, sizeof(T), where), sizeof(T));
    return value;
  }
  void store(int index, T value, Where where = Where::current()) const {
    std::memcpy(write(index, sizeof(T), where), &value, sizeof(T));
  }
  Words load_words(int index, Where where = Where::current()) const {
    Words value;
    std::memcpy(&value, read(index, sizeof(Words), where), sizeof(Words));
    return value;
  }
  void store_words(int index, Words value, Where where = Where::current()) const {
    std::memcpy(write(index, sizeof(Words), where), &value, sizeof(Words));
  }
  uint32_t address(int index, Where where = Where::current()) const { return byte(index, sizeof(T), 1, where); }

 private:
  uint32_t byte(int index, uint32_t bytes, uint32_t alignment, Where where) const {
    const int64_t begin = int64_t{index} * static_cast<int64_t>(sizeof(T));
    if (index < 0 || begin + bytes > int64_t{count_} * static_cast<int64_t>(sizeof(T))) {
      emulation::fault(where, "index %d is outside the %d elements of this shared memory", index, count_);
    }
    const uint32_t result = static_cast<uint32_t>(offset_ + begin);
    if (result % alignment != 0) {
      emulation::fault(where, "byte %u of shared memory is not a multiple of %u", result, alignment);
    }
    return result;
  }
  const unsigned char* read(int index, uint32_t bytes, Where where) const {
    const uint32_t place = byte(index, bytes, bytes, where);
    emulation::note_read(place, bytes, where);
    return emulation::current->block->shared + place;
  }
  unsigned char* write(int index, uint32_t bytes, Where where) const {
    emulation::yield_at_store();
    const uint32_t place = byte(index, bytes, bytes, where);
    emulation::note_write(place, bytes, emulation::current->stamp, where);
    return emulation::current->block->shared + place;
  }

  int offset_, count_;
};

template <class T>
Shared<T> shared_memory(int offset, int count, Where where = Where::current()) {
  const int64_t end = offset + int64_t{count} * static_cast<int64_t>(sizeof(T));
  if (offset < 0 || count < 0 || end > emulation::current->block->shared_bytes) {
    emulation::fault(where, "bytes %d to %lld are outside the block's %d bytes of shared memory", offset,
                     static_cast<long long>(end), emulation::current->block->shared_bytes);
  }
  if (offset % alignof(T) != 0) emulation::fault(where, "offset %d is not a multiple of %zu", offset, alignof(T));
  return Shared<T>(offset, count);
}

// ---- synchronisation within a block

inline void block_barrier(Where where = Where::current()) { emulation::wait_at_barrier(0, 0, where); }
inline void warp_barrier(Where where = Where::current()) {
  if (emulation::meet_warp("warp_barrier", where)) emulation::leave_warp();
}
inline void named_barrier(int id, int threads, Where where = Where::current()) {
  if (id < 1 || id >= emulation::kNamedBarriers) emulation::fault(where, "named_barrier %d is not from 1 to 15", id);
  if (threads < 1 || threads % kWarp != 0) emulation::fault(where, "named_barrier of %d threads, not warps", threads);
  emulation::wait_at_barrier(id, threads, where);
}

// ---- within a warp

inline uint32_t shuffle_words(uint32_t value, int source, const char* name, Where where) {
  emulation::Warp& warp = emulation::current_warp();
  const int lane = emulation::current->lane;
  warp.value[lane] = value;
  warp.source[lane] = source;
  if (emulation::meet_warp(name, where)) {
    for (int i = 0; i < kWarp; i++) warp.result[i] = warp.value[warp.source[i]];
    emulation::leave_warp();
  }
  return warp.result[lane];
}
inline int own_lane() { return emulation::current->lane; }

// A double goes as two words.
template <class Move>
double double_of(const Move& move, double value) {
  float halves[2];
  std::memcpy(halves, &value, sizeof(value));
  for (float& half : halves) half = move(half);
  std::memcpy(&value, halves, sizeof(value));
  return value;
}

// Lanes wrap around in shuffle; in shuffle_down a lane that would look beyond the last one gets its own value.
inline float shuffle(float value, int lane, Where where = Where::current()) {
  return std::bit_cast<float>(shuffle_words(std::bit_cast<uint32_t>(value), lane & (kWarp - 1), "shuffle", where));
}
inline double shuffle(double value, int lane, Where where = Where::current()) {
  return double_of([&](float half) { return shuffle(half, lane, where); }, value);
}
inline int shuffle(int value, int lane, Where where = Where::current()) {
  return static_cast<int>(shuffle_words(static_cast<uint32_t>(value), lane & (kWarp - 1), "shuffle", where));
}
inline float shuffle_down(float value, int lanes, Where where = Where::current()) {
  const int source = own_lane() + lanes < kWarp ? own_lane() + lanes : own_lane();
  return std::bit_cast<float>(shuffle_words(std::bit_cast<uint32_t>(value), source, "shuffle_down", where));
}
inline float shuffle_xor(float value, int mask, Where where = Where::current()) {
  const int source = (own_lane() ^ mask) & (kWarp - 1);
  return std::bit_cast<float>(shuffle_words(std::bit_cast<uint32_t>(value), source, "shuffle_xor", where));
}
inline double shuffle_xor(double value, int mask, Where where = Where::current()) {
  return double_of([&](float half) { return shuffle_xor(half, mask, where); }, value);
}
inline int shuffle_xor(int value, int mask, Where where = Where::current()) {
  const int source = (own_lane() ^ mask) & (kWarp - 1);
  return static_cast<int>(shuffle_words(static_cast<uint32_t>(value), source, "shuffle_xor", where));
}
inline uint32_t vote(bool predicate, const char* name, Where where) {
  emulation::Warp& warp = emulation::current_warp();
  const int lane = emulation::current->lane;
  warp.value[lane] = predicate;
  if (emulation::meet_warp(name, where)) {
    uint32_t votes = 0;
    for (int i = 0; i < kWarp; i++) votes |= warp.value[i] << i;
    for (int i = 0; i < kWarp; i++) warp.result[i] = votes;
    emulation::leave_warp();
  }
  return warp.result[lane];
}
inline bool any_lane(bool predicate, Where where = Where::current()) { return vote(predicate, "any_lane", where) != 0; }
inline uint32_t ballot(bool predicate, Where where = Where::current()) { return vote(predicate, "ballot", where); }

// ---- global memory

template <class T>
T exchange_atomically(T* address, T value) {
  const T before = *address;
  *address = value;
  return before;
}
inline int atomic_max(int* address, int value, Where where = Where::current()) {
  emulation::expect_launch_before(where);
  emulation::atomic_counts.maxima++;
  emulation::yield();
  return exchange_atomically(address, value > *address ? value : *address);
}
inline uint64_t atomic_max(uint64_t* address, uint64_t value, Where where = Where::current()) {
  emulation::expect_launch_before(where);
  emulation::yield();
  return exchange_atomically(address, value > *address ? value : *address);
}
inline int atomic_add(int* address, int value, Where where = Where::current()) {
  emulation::expect_launch_before(where);
  emulation::atomic_counts.additions++;
  emulation::yield();
  return exchange_atomically(address, static_cast<int>(static_cast<uint32_t>(*address) + static_cast<uint32_t>(value)));
}
inline int64_t atomic_add(int64_t* address, int64_t value, Where where = Where::current()) {
  emulation::expect_launch_before(where);
  emulation::yield();
  const uint64_t sum = static_cast<uint64_t>(*address) + static_cast<uint64_t>(value);
  return exchange_atomically(address, static_cast<int64_t>(sum));
}
inline void device_fence() { emulation::yield(); }
template <class T>
T load_fresh(const T* address, Where where = Where::current()) {
  emulation::fresh_load(where);
  return *address;
}

// ---- launches that overlap

inline void allow_next_launch() {}
inline void wait_for_launch_before() { emulation::wait_for_launch_before(); }

// ---- asynchronous copies

inline void copy_async(Shared<Words> target, int index, const void* source, bool present,
                       Where where = Where::current()) {
  emulation::issue_copy(target.address(index, where), source, present, where);
}
inline void copy_commit() { emulation::commit_copies(); }
template <int Pending>
void copy_wait() {
  emulation::wait_for_copies(Pending);
}

// ---- matrix products

inline void matrix_multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                Where where = Where::current()) {
  emulation::Warp& warp = emulation::current_warp();
  const int lane = emulation::current->lane;
  warp.sum[lane] = d;
  warp.left[lane] = a;
  warp.right[lane] = b;
  if (emulation::meet_warp("matrix_multiply_add", where)) {
    emulation::combine_products(warp);
    emulation::leave_warp();
  }
}

// ---- numbers

inline Half to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t result;
  if (magnitude > 0x7f800000u) {
    result = 0x7fffu;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    result = 0x7c00u;  // rounds beyond the largest half
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 1/2 leaves the half's bits, rounded, in the lowest bits of the sum.
    result = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  } else {
    result = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return Half{static_cast<uint16_t>(sign | result)};
}
inline float to_float(Half value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  uint32_t result = (magnitude << 13) + 0x38000000u;
  if (magnitude >= 0x7c00u) {
    result = 0x7f800000u | magnitude << 13;
  } else if (magnitude < 0x400u) {
    result = std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
  }
  return std::bit_cast<float>(sign | result);
}
inline uint32_t bits_of(float value) { return std::bit_cast<uint32_t>(value); }
inline float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }
inline float larger(float left, float right) { return __builtin_fmaxf(left, right); }
inline float square_root(float value) { return __builtin_sqrtf(value); }
inline double square_root(double value) { return __builtin_sqrt(value); }
inline float fused_multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline int count_bits(uint32_t value) { return std::popcount(value); }

}  // namespace patchswap
