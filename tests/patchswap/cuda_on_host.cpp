// The direct CUDA match, its per-thread code with loops in place of the grid, for test_cuda_on_host.py. Threads run
// from last to first: they must not depend on each other.

#include <cstdint>

#include "cuda/match_direct.cuh"

namespace {

using namespace patchswap;

template <class Work>
void run(int64_t threads, Work work) {
  for (int64_t thread = threads - 1; thread >= 0; thread--) work(thread);
}

template <int P, class Number>
void run_match(const MatchParameters<Number, Number>& p, Number* query_norm, Number* key_norm) {
  const int64_t queries = p.batch * p.query.patches();
  run(queries, InverseNorm<P, Number, Number>{p.query, query_norm});
  run(p.batch * p.key.patches(), InverseNorm<P, Number, Number>{p.key, key_norm});
  run(queries * p.slices, MatchSlice<P, Number, Number>{p});
  run(queries, MergeSlices<Number, Number>{p});
}

}  // namespace

// The structs cross from ctypes as they are, so their layout there must equal the one here.
#define PATCHSWAP_HOST_FUNCTIONS(NUMBER)                                                                       \
  extern "C" void match_##NUMBER(int patch_size, const MatchParameters<NUMBER, NUMBER>* p, NUMBER* query_norm, \
                                 NUMBER* key_norm) {                                                           \
    if (patch_size == 1) run_match<1>(*p, query_norm, key_norm);                                               \
    if (patch_size == 3) run_match<3>(*p, query_norm, key_norm);                                               \
    if (patch_size == 5) run_match<5>(*p, query_norm, key_norm);                                               \
  }

PATCHSWAP_HOST_FUNCTIONS(float)
PATCHSWAP_HOST_FUNCTIONS(double)

extern "C" int64_t match_parameters_size() { return sizeof(MatchParameters<float, float>); }
