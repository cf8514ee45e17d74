// The kernels of the tensor-core match as functions that Python calls, for test_match_emulated.py and test_mutants.py.
// With PATCHSWAP_ONE_VARIANT only float32 features, which is quicker to compile. Each function returns null, or what
// went wrong, a text that lives until the next call.

#include <cstdint>

#include "cuda/match_mma.cuh"
#include "cuda/match_wgmma.cuh"
#include "cuda/prepare.cuh"
#include "cuda/rescore.cuh"

namespace {

using namespace patchswap;

// What prepare wants besides the problem. The layout is that of the ctypes class of the same name.
struct Maps {
  const void* query;
  const void* key;
  int* query_arrivals;
  int* key_arrivals;
  uint32_t* workspace;
  int32_t match_blocks, key_stride;  // of the model that chooses the plan
  int32_t dtype;                     // 0 float32, 1 float16, 2 bfloat16
  int32_t one_map, query_is_channels_last, key_is_channels_last, query_is_shared, key_is_shared;
};

template <class Element>
void run_prepare_on(const emulation::Schedule& schedule, const Problem& problem, const Maps& maps) {
  Preparation<Element> work = {};
  work.problem = problem;
  work.query = static_cast<const Element*>(maps.query);
  work.key = static_cast<const Element*>(maps.key);
  work.one_map = maps.one_map != 0;
  work.query_is_channels_last = maps.query_is_channels_last != 0;
  work.key_is_channels_last = maps.key_is_channels_last != 0;
  work.query_is_shared = maps.query_is_shared != 0;
  work.key_is_shared = maps.key_is_shared != 0;
  work.query_arrivals = maps.query_arrivals;
  work.key_arrivals = maps.key_arrivals;
  work.workspace = maps.workspace;
  work.cost = {.key_stride = maps.key_stride, .match_blocks = maps.match_blocks};
  const int blocks = static_cast<int>(prepare_blocks(problem, work.one_map));
  emulation::emulate(schedule, blocks, kPrepareThreads, kPrepareShared, [&] { prepare<Element>(work); });
}

}  // namespace

extern "C" {

const char* run_prepare(const emulation::Schedule* schedule, const Problem* problem, const Maps* maps) {
  return emulation::message_of([&] {
    if (maps->dtype == 0) run_prepare_on<float>(*schedule, *problem, *maps);
#if !defined(PATCHSWAP_ONE_VARIANT)
    if (maps->dtype == 1) run_prepare_on<Half>(*schedule, *problem, *maps);
    if (maps->dtype == 2) run_prepare_on<BFloat16>(*schedule, *problem, *maps);
#endif
  });
}

// raised: how often the search raised thresholds, or tried to; reserved: how often it reserved places in lists.
const char* run_search(const emulation::Schedule* schedule, int blocks, const Problem* problem, bool use_wgmma,
                       int64_t* raised, int64_t* reserved) {
  return emulation::message_of([&] {
    const emulation::AtomicCounts before = emulation::atomic_counts;
    if (use_wgmma) {
      emulation::emulate(*schedule, blocks, wgmma::kThreads, wgmma::kSharedBytes, [&] { match_wgmma(*problem); }, true);
    } else {
      emulation::emulate(*schedule, blocks, mma::kThreads, mma::kSharedBytes, [&] { match_mma(*problem); }, true);
    }
    *raised = emulation::atomic_counts.maxima - before.maxima;
    *reserved = emulation::atomic_counts.additions - before.additions;
  });
}

const char* run_rescore(const emulation::Schedule* schedule, const Problem* problem) {
  return emulation::message_of([&] {
    const int blocks = static_cast<int>(rescore_blocks(*problem, 1));  // few, so that each has several rounds
    emulation::emulate(*schedule, blocks, kRescoreThreads, kRescoreShared, [&] { rescore(*problem); }, true);
  });
}

int64_t problem_size() { return sizeof(Problem); }
int64_t maps_size() { return sizeof(Maps); }
int64_t group_pitch(int64_t rows, int64_t width) { return plan_group_pitch(rows, width); }
int64_t workspace_words(int64_t batch, int64_t rows, int64_t width) { return plan_workspace(batch, rows, width); }
int32_t key_stride(bool use_wgmma) { return use_wgmma ? wgmma::kStretch : mma::kStretch; }
int64_t slots_in_group() { return kSlots; }
int64_t channels_in_chunk() { return kChunk; }

}  // extern "C"
