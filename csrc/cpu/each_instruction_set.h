// Includes the file that PATCHSWAP_KERNELS names once for each instruction set, in a namespace of its own and compiled
// for these instructions. Such files include nothing: whoever includes this one has included what they need.
//
// The namespaces are unnamed inside, so that two sources can have different kernels of the same name. What standard
// headers define is compiled for every x86-64, as it lies outside.
//
// Three query panels times two registers of results fill most of a machine's registers.

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,fma")
#endif
namespace patchswap::avx512vnni {
namespace {
constexpr int kVectorBytes = 64;    // of a register
constexpr int kQueryPanel = 4;      // query cells that lie side by side
constexpr bool kHasFma = true;      // a multiply-add rounds once
constexpr bool kTakesQuads = true;  // one instruction multiplies and adds up four pairs of 8-bit integers
#include PATCHSWAP_KERNELS
}  // namespace
}  // namespace patchswap::avx512vnni
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma")
#endif
namespace patchswap::avx512 {
namespace {
constexpr int kVectorBytes = 64, kQueryPanel = 4;
constexpr bool kHasFma = true, kTakesQuads = false;
#include PATCHSWAP_KERNELS
}  // namespace
}  // namespace patchswap::avx512
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace patchswap::avx2 {
namespace {
constexpr int kVectorBytes = 32, kQueryPanel = 2;
constexpr bool kHasFma = true, kTakesQuads = false;
#include PATCHSWAP_KERNELS
}  // namespace
}  // namespace patchswap::avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__

namespace patchswap::generic {
namespace {
constexpr int kVectorBytes = 16, kQueryPanel = 2;
#ifdef __FP_FAST_FMAF
constexpr bool kHasFma = true;
#else
constexpr bool kHasFma = false;
#endif
constexpr bool kTakesQuads = false;
#include PATCHSWAP_KERNELS
}  // namespace
}  // namespace patchswap::generic

#undef PATCHSWAP_KERNELS
