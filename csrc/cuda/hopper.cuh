// What kernels need of Hopper (compute capability 9.0) beyond device.cuh, under the same rules: one name for each piece
// of PTX, and a definition of the name by its meaning in tests/cuda_emulation/emulated_hopper.h. They are features of
// one architecture: only code for sm_90a has them, and kernels that use them are empty unless PATCHSWAP_HOPPER is
// defined.
//
// Two proxies. Bulk copies and products of warpgroups go to shared memory by the asynchronous proxy, loads and stores
// by the generic one. A wait at a copy barrier orders bulk copies before what follows in either proxy. What ordinary
// stores have written is only there for the asynchronous proxy after fence_for_async_proxy() in the storing thread and
// a barrier.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace patchswap {

constexpr int kWarpgroup = 4 * kWarp;  // the first thread of a warpgroup has a multiple of this as its index

// Describes an operand in shared memory, for products: rows of the left one, columns of the right one ("lines") times
// terms of the sum. It is made of core matrices, 8 lines x 8 terms in 128 contiguous bytes, a line's terms in 16 of
// them. The order of the terms is K-major without swizzling: there PTX calls the distance from a core matrix to that of
// the next 8 terms the leading dimension byte offset, and the one to that of the next 8 lines the stride dimension byte
// offset. In bytes, multiples of 16 below 2^18.
PATCHSWAP_DEVICE uint64_t matrix_descriptor(uint32_t address, uint32_t to_next_terms, uint32_t to_next_lines) {
  return static_cast<uint64_t>(address >> 4) | static_cast<uint64_t>(to_next_terms >> 4) << 16 |
         static_cast<uint64_t>(to_next_lines >> 4) << 32;
}
// The descriptor of the same operand `bytes` further on. An address has 14 bits there: its sum stays in the lower half.
PATCHSWAP_DEVICE uint64_t moved(uint64_t descriptor, uint32_t bytes) {
  return descriptor >> 32 << 32 | (static_cast<uint32_t>(descriptor) + (bytes >> 4));
}

}  // namespace patchswap

#if !defined(__CUDACC__)
#define PATCHSWAP_HOPPER
#include "emulated_hopper.h"
#else

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PATCHSWAP_HOPPER
#endif

namespace patchswap {

// ---- registers; all threads of a warpgroup call together, in one branch on their role

// From here on a thread of this warpgroup has `Count` registers at most; others may have those that it gives up.
template <int Count>
PATCHSWAP_DEVICE void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
// Waits until so many registers are free.
template <int Count>
PATCHSWAP_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

// ---- copy barriers: mbarriers in shared memory. A phase ends when all arrivals have come and all bytes that were
// announced in it have been copied; the next one begins at once, with the same number of arrivals.

PATCHSWAP_DEVICE void start_copy_barrier(Shared<uint64_t> barriers, int index, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barriers.address(index)), "r"(arrivals) : "memory");
}
// After starting barriers, by the thread that did; a block barrier then lets all threads and copies use them.
PATCHSWAP_DEVICE void fence_for_started_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
PATCHSWAP_DEVICE void arrive_at_copy_barrier(Shared<uint64_t> barriers, int index) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barriers.address(index)) : "memory");
}
// Announces bytes of bulk copies, then arrives.
PATCHSWAP_DEVICE void arrive_and_announce(Shared<uint64_t> barriers, int index, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barriers.address(index)), "r"(bytes)
               : "memory");
}
// Waits until the phase of this parity has ended: 0 is that of the first phase, the third and so on. Before the first
// phase has ended, one of parity 1 counts as ended.
PATCHSWAP_DEVICE void wait_at_copy_barrier(Shared<uint64_t> barriers, int index, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred ended;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@ended bra done;\n"
      "bra again;\n"
      "done:\n"
      "}\n" ::"r"(barriers.address(index)),
      "r"(parity)
      : "memory");
}

// Copies `bytes` of global memory to the words from `index` on, for which the barrier's present phase must wait.
// Addresses and size are multiples of 16.
PATCHSWAP_DEVICE void bulk_copy_async(Shared<Words> target, int index, const void* source, int bytes,
                                      Shared<uint64_t> barriers, int barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   target.address(index)),
               "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barriers.address(barrier))
               : "memory");
}

PATCHSWAP_DEVICE void fence_for_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- matrix products; all threads of a warpgroup call together

// Before the first product, and before any product whose registers something else has read or written since.
PATCHSWAP_DEVICE void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// d = a * b, or d += a * b, with a (64 x 16) and b (16 x 128) in half precision, d (64 x 128) in float32. Thread
// 32 w + 4 g + t of the warpgroup holds rows 16 w + g and 16 w + g + 8, columns 8 j + 2 t and 8 j + 2 t + 1: element
// (16 w + g + 8 h, 8 j + 2 t + e) is d[4 j + 2 h + e]. It is there after a wait.
PATCHSWAP_DEVICE void multiply_add_async(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
      " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
      " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
      " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, add, 1, 1, 0, 0;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]),
        "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
        "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
        "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

// Closes the group of products issued since the last call.
PATCHSWAP_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `Pending` groups are under way. Their operands may then be overwritten.
template <int Pending>
PATCHSWAP_DEVICE void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
// Waits for all products, of which d is the result: no use of d moves ahead of this.
PATCHSWAP_DEVICE void wait_for_products(float (&d)[64]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
               :
               : "memory");
}

}  // namespace patchswap

#endif
