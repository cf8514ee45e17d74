// What kernels need of the machine, one name for each. Intrinsics and PTX are here and in hopper.cuh only. Kernels that
// use nothing else also compile with g++ against tests/cuda_emulation/emulated_device.h, which gives every name below a
// definition by its meaning; CI runs them there.
//
// Names end in _async where the effect is only there after the matching wait. All pointers to shared memory go through
// Shared<T>, which the emulation checks for bounds, for reads of what nothing wrote, and for races.
#pragma once

#include <cstdint>

#if !defined(__CUDACC__)
#include "emulated_device.h"
#define PATCHSWAP_HOST_DEVICE inline
#else

#include <cuda_fp16.h>

#define PATCHSWAP_KERNEL(threads) static __global__ void __launch_bounds__(threads, 1)
#define PATCHSWAP_DEVICE __device__ __forceinline__
#define PATCHSWAP_HOST_DEVICE __host__ __device__ inline

namespace patchswap {

using Half = __half;

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

// Four 32-bit words, moved as one 16-byte access.
struct alignas(16) Words {
  uint32_t word[4];
};

// Volatile: the compiler reads it at every call, and keeps nothing that depends on it in registers in between.
PATCHSWAP_DEVICE int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
PATCHSWAP_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
PATCHSWAP_DEVICE int block_count() { return static_cast<int>(gridDim.x); }

// ---- shared memory

// A typed view of dynamic shared memory. An index counts elements of T.
template <class T>
class Shared {
 public:
  PATCHSWAP_DEVICE explicit Shared(T* data) : data_(data) {}
  PATCHSWAP_DEVICE T load(int index) const { return data_[index]; }
  PATCHSWAP_DEVICE void store(int index, T value) const { data_[index] = value; }
  // 16 bytes at once; index must make the address a multiple of 16.
  PATCHSWAP_DEVICE Words load_words(int index) const { return *reinterpret_cast<const Words*>(data_ + index); }
  PATCHSWAP_DEVICE void store_words(int index, Words value) const { *reinterpret_cast<Words*>(data_ + index) = value; }
  // Bytes as seen by copies, barriers and matrix descriptors.
  PATCHSWAP_DEVICE uint32_t address(int index) const {
    return static_cast<uint32_t>(__cvta_generic_to_shared(data_ + index));
  }

 private:
  T* data_;
};

// View of `count` elements of T that begin `offset` bytes into the block's dynamic shared memory.
template <class T>
PATCHSWAP_DEVICE Shared<T> shared_memory(int offset, int /*count*/) {
  extern __shared__ __align__(1024) unsigned char memory[];
  return Shared<T>(reinterpret_cast<T*>(memory + offset));
}

// ---- synchronisation within a block

PATCHSWAP_DEVICE void block_barrier() { __syncthreads(); }
PATCHSWAP_DEVICE void warp_barrier() { __syncwarp(); }
// Barrier `id` (1 to 15) among `threads` threads of the block, whole warps.
PATCHSWAP_DEVICE void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- within a warp; all 32 lanes call together

PATCHSWAP_DEVICE float shuffle(float value, int lane) { return __shfl_sync(kAllLanes, value, lane); }
PATCHSWAP_DEVICE double shuffle(double value, int lane) { return __shfl_sync(kAllLanes, value, lane); }
PATCHSWAP_DEVICE int shuffle(int value, int lane) { return __shfl_sync(kAllLanes, value, lane); }
PATCHSWAP_DEVICE float shuffle_down(float value, int lanes) { return __shfl_down_sync(kAllLanes, value, lanes); }
PATCHSWAP_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(kAllLanes, value, mask); }
PATCHSWAP_DEVICE double shuffle_xor(double value, int mask) { return __shfl_xor_sync(kAllLanes, value, mask); }
PATCHSWAP_DEVICE int shuffle_xor(int value, int mask) { return __shfl_xor_sync(kAllLanes, value, mask); }
PATCHSWAP_DEVICE bool any_lane(bool predicate) { return __any_sync(kAllLanes, predicate); }
PATCHSWAP_DEVICE uint32_t ballot(bool predicate) { return __ballot_sync(kAllLanes, predicate); }

// ---- global memory

PATCHSWAP_DEVICE int atomic_max(int* address, int value) { return atomicMax(address, value); }
PATCHSWAP_DEVICE uint64_t atomic_max(uint64_t* address, uint64_t value) {
  return atomicMax(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}
PATCHSWAP_DEVICE int atomic_add(int* address, int value) { return atomicAdd(address, value); }
PATCHSWAP_DEVICE int64_t atomic_add(int64_t* address, int64_t value) {
  return static_cast<int64_t>(
      atomicAdd(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value)));
}
// What earlier writes of this thread wrote is seen by every thread that sees a later one.
PATCHSWAP_DEVICE void device_fence() { __threadfence(); }
// A value that other blocks of this launch may be writing, past the first-level cache.
template <class T>
PATCHSWAP_DEVICE T load_fresh(const T* address) {
  return __ldcg(address);
}

// ---- launches that overlap (compute capability 9.0; elsewhere they do not, and these do nothing)

// Blocks of the next launch may begin once all blocks of this one have called this or ended, where there is room.
PATCHSWAP_DEVICE void allow_next_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Waits until the launch before has ended and its writes are seen. All threads call it before they read any of them.
PATCHSWAP_DEVICE void wait_for_launch_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- asynchronous copies from global to shared memory (compute capability 8.0)

// 16 bytes, or 16 zero bytes where `present` is false; the source is not read then. Both addresses multiples of 16.
PATCHSWAP_DEVICE void copy_async(Shared<Words> target, int index, const void* source, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target.address(index)), "l"(source),
               "r"(present ? 16 : 0)
               : "memory");
}
// Closes the group of copies that this thread issued since the last call.
PATCHSWAP_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Pending` of this thread's groups are under way; a barrier shows them to other threads.
template <int Pending>
PATCHSWAP_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- matrix products

// d += a * b with a (16 x 16), b (16 x 8), d (16 x 8) in float32. With group = lane / 4 and pair = lane % 4 a lane
// holds
//   a[0] rows group,     columns 2 pair, 2 pair + 1        a[2] the same rows,  columns 2 pair + 8, 2 pair + 9
//   a[1] rows group + 8, columns 2 pair, 2 pair + 1        a[3] rows group + 8, columns 2 pair + 8, 2 pair + 9
//   b[0] rows 2 pair, 2 pair + 1 of column group           b[1] rows 2 pair + 8, 2 pair + 9 of column group
//   d[0], d[1] row group, columns 2 pair, 2 pair + 1       d[2], d[3] the same columns of row group + 8
// as two halves to a word, the lower index in the lower half. Compute capability 8.0.
PATCHSWAP_DEVICE void matrix_multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- numbers

PATCHSWAP_DEVICE Half to_half(float value) { return __float2half_rn(value); }
PATCHSWAP_DEVICE float to_float(Half value) { return __half2float(value); }
PATCHSWAP_DEVICE uint32_t bits_of(float value) { return __float_as_uint(value); }
PATCHSWAP_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }
// The larger number; of a number and NaN the number.
PATCHSWAP_DEVICE float larger(float left, float right) { return fmaxf(left, right); }
PATCHSWAP_DEVICE float square_root(float value) { return __fsqrt_rn(value); }
PATCHSWAP_DEVICE double square_root(double value) { return __dsqrt_rn(value); }
PATCHSWAP_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
PATCHSWAP_DEVICE int count_bits(uint32_t value) { return __popc(value); }

}  // namespace patchswap

#endif
