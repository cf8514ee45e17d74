// The pruned search's inner loops, for each instruction set.
#pragma once

#include <atomic>
#include <vector>

#include "../dtype.h"
#include "basis.h"
#include "candidates.h"
#include "encode.h"
#include "instruction_set.h"

namespace patchswap {

template <class Walk, int P, bool IsSeeding>
struct PrunedVisitor {
  using Lanes = Registers<float, sizeof(typename Walk::Vector)>;
  using Vector = typename Lanes::Vector;
  static constexpr int kLanes = Walk::kLanes;

  const PrunedTask& task;

  PATCHSWAP_INLINE bool wants(int64_t y, int64_t x) const {
    const int64_t query = y * task.query.slots + x;
    return task.query_weight[query] > 0 && task.threshold[query] < kInfinity &&
           (!task.is_worthwhile || task.is_worthwhile->load(std::memory_order_relaxed));
  }

  PATCHSWAP_INLINE void visit(int64_t y, int64_t x, int64_t v, const int32_t* const (&summed)[P]) const {
    const int64_t slots = task.key.slots, query = y * task.query.slots + x;
    const float *factor = task.key_factor + v * slots, *key_weight = task.key_weight + v * slots;
    const float weight = IsSeeding ? 1e-30f : task.query_weight[query];
    const float threshold = IsSeeding ? task.sure->worst(query) : task.threshold[query];
    typename Walk::Vector passes = {};
    for (int64_t u = 0; u < slots; u += kLanes) {
      typename Walk::Vector total = Walk::load(summed[0] + u);
#pragma GCC unroll 8
      for (int dy = 1; dy < P; dy++) total += Walk::load(summed[dy] + u);
      const Vector upper =
          __builtin_convertvector(total, Vector) * Lanes::load(factor + u) + weight * Lanes::load(key_weight + u);
      if constexpr (!Walk::kTakesQuads) Walk::at(task.coarse + u) = total;
      Lanes::at(task.upper + u) = upper;
      passes |= ~(upper < threshold);
    }
    *task.visited += slots;
    if (!Walk::any(passes)) return;
    if constexpr (IsSeeding) {
      for (int64_t u = 0; u < slots; u++) {
        if (task.upper[u] > task.sure->worst(query)) task.sure->offer(query, task.upper[u], v * slots + u);
      }
    } else {
      for (int64_t first = 0; first < slots; first += kLanes) {
        if (!Walk::any(~(Lanes::load(task.upper + first) < threshold))) continue;
        for (int64_t u = first; u < first + kLanes; u++) {
          // Not less rather than greater: should the bound overflow to NaN, the pair stays in.
          if (!(task.upper[u] < threshold) && task.upper[u] != -kInfinity) {
            task.candidates.push_back(
                {static_cast<int32_t>(query), static_cast<int32_t>(v * slots + u), task.upper[u], task.coarse[u]});
          }
        }
      }
      if (task.candidates.size() < *task.kept + kMostCandidates) return;
      rescore<Walk, P>(task);
    }
  }
};

struct PrunedKernel {
  BasisKernel basis;
  bool takes_quads;  // else trailing numbers are kept apart
  void (*add_squares)(const float* row, int64_t slots, int64_t channels, double* squares);  // of a key panel
  void (*encode)(const EncodeTask& task);
  void (*search)(int64_t patch_size, const PrunedTask& task, int64_t difference);
  void (*resolve)(int64_t patch_size, const PrunedTask& task);

  int64_t query_panel() const { return basis.products.left_panel; }
  int64_t key_panel() const { return basis.products.right_panel; }
};

// The functions of PrunedKernel for one instruction set.
#define PATCHSWAP_PRUNED_KERNEL(name, target, bytes, panel, whole_numbers)                                             \
  struct name {                                                                                                        \
    using Coarse = Walk<CoarseProducts<bytes, panel, WholeNumbers::whole_numbers>>;                                    \
    template <class Number>                                                                                            \
    target static void multiply(const Number* left, int64_t rows, const Number* right, int64_t columns, int64_t depth, \
                                Number* result, int64_t stride) {                                                      \
      multiply_panels<Walk<FullProducts<Number, bytes, panel>>>(left, rows, right, columns, depth, result, stride);    \
    }                                                                                                                  \
    target static void orthonormalise(float* vectors, int64_t begin, int64_t end, int64_t length, float* norms) {      \
      orthonormalise_block(vectors, begin, end, length, norms);                                                        \
    }                                                                                                                  \
    target static void squares(const float* row, int64_t slots, int64_t channels, double* result) {                    \
      add_squares<float, bytes / 4>(row, slots, channels, result);                                                     \
    }                                                                                                                  \
    target static void encode(const EncodeTask& task) {                                                                \
      for (int64_t slot = 0; slot < task.word_slots; slot += kEncodedTogether) encode_slots(task, slot);               \
    }                                                                                                                  \
    template <int P>                                                                                                   \
    target static void walk(const PrunedTask& task, int64_t difference) {                                              \
      if (task.is_seeding) {                                                                                           \
        PrunedVisitor<Coarse, P, true> visitor{task};                                                                  \
        Coarse::template diagonal<P>(task.query, task.key, difference, task.buffers, visitor);                         \
      } else {                                                                                                         \
        PrunedVisitor<Coarse, P, false> visitor{task};                                                                 \
        Coarse::template diagonal<P>(task.query, task.key, difference, task.buffers, visitor);                         \
      }                                                                                                                \
    }                                                                                                                  \
    static void search(int64_t patch_size, const PrunedTask& task, int64_t difference) {                               \
      with_patch_size(patch_size, [&](auto size) { walk<size.value>(task, difference); });                             \
    }                                                                                                                  \
    template <int P>                                                                                                   \
    target static void resolve_all(const PrunedTask& task) {                                                           \
      patchswap::resolve<Coarse, P>(task);                                                                             \
    }                                                                                                                  \
    static void resolve(int64_t patch_size, const PrunedTask& task) {                                                  \
      with_patch_size(patch_size, [&](auto size) { resolve_all<size.value>(task); });                                  \
    }                                                                                                                  \
    static PrunedKernel kernel() {                                                                                     \
      return {{{panel, bytes / 4, &multiply<float>}, {panel, bytes / 8, &multiply<double>}, &orthonormalise},          \
              Coarse::kTakesQuads,                                                                                     \
              &squares,                                                                                                \
              &encode,                                                                                                 \
              &search,                                                                                                 \
              &resolve};                                                                                               \
    }                                                                                                                  \
  };

#if defined(__x86_64__)
PATCHSWAP_PRUNED_KERNEL(PrunedVnni, __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,fma"))), 64, 4,
                        kPairsAndQuads)
PATCHSWAP_PRUNED_KERNEL(PrunedAvx512, __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"))), 64, 4, kPairs)
PATCHSWAP_PRUNED_KERNEL(PrunedAvx2, __attribute__((target("avx2,fma"))), 32, 2, kPairs)
PATCHSWAP_PRUNED_KERNEL(PrunedGeneric, , 16, 2, kPairs)  // SSE2
#else
PATCHSWAP_PRUNED_KERNEL(PrunedGeneric, , 16, 2, kPlain)
#endif

inline PrunedKernel pruned_kernel() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAvx512Vnni) return PrunedVnni::kernel();
  if (instruction_set() == InstructionSet::kAvx512) return PrunedAvx512::kernel();
  if (instruction_set() == InstructionSet::kAvx2) return PrunedAvx2::kernel();
#endif
  return PrunedGeneric::kernel();
}

}  // namespace patchswap
