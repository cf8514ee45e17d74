// The direct match as a function that Python calls, for test_direct_emulated.py: the host side and the kernels of
// csrc/cuda/match_direct.cuh. With PATCHSWAP_ONE_VARIANT only float32 and patches of 3 x 3, which is quick to compile.

#if !defined(PATCHSWAP_ONE_VARIANT)
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#endif

#include <cstdint>
#include <stdexcept>
#include <type_traits>
#include <vector>

extern "C" void* guarded_allocate(size_t size, bool guard_begin, const char* name);
extern "C" int guarded_free(void* address);

#include "cuda/match_direct.cuh"

namespace {

using namespace patchswap;

// The layout is that of the ctypes class of the same name.
struct Call {
  const void* query;
  const void* key;
  const bool* query_mask;
  const bool* key_mask;
  int64_t* index;
  void* score;
  const void* key_weight;
  void* ranking;
  int64_t batch, channels, query_height, query_width, key_height, key_width;
  int32_t patch_size, topk, dtype, guard_begin;  // dtype: 0 float32, 1 float16, 2 bfloat16, 3 float64
  int32_t query_is_shared, key_is_shared;
  int64_t metric;                    // as an enum
  int64_t most_cells, most_samples;  // of a tile; whose products are held at the same time
  int64_t workspace, launches;       // results: bytes, and how many kernels ran
};

// Every array in guarded memory of its own, which begins as garbage.
class Space {
 public:
  explicit Space(bool guard_begin) : guard_begin_(guard_begin) {}
  Space(const Space&) = delete;
  ~Space() {
    for (void* array : arrays_) guarded_free(array);
  }
  template <class Number>
  void take(Number*& array, int64_t count) {
    if (count == 0) return;
    const size_t bytes = static_cast<size_t>(count) * sizeof(Number);
    arrays_.push_back(guarded_allocate(bytes, guard_begin_, "workspace"));
    if (arrays_.back() == nullptr) throw std::runtime_error("no memory");
    array = static_cast<Number*>(arrays_.back());
    used_ += static_cast<int64_t>(bytes);
  }
  int64_t used() const { return used_; }
  // Frees all; throws where something was written next to an array.
  void check() {
    bool is_intact = true;
    for (void* array : arrays_) is_intact &= guarded_free(array) == 0;
    arrays_.clear();
    if (!is_intact) throw std::runtime_error("bytes next to an array of the workspace were written to");
  }

 private:
  bool guard_begin_;
  int64_t used_ = 0;
  std::vector<void*> arrays_;
};

template <int P, class Element>
void run_call(const emulation::Schedule& schedule, Call& call) {
  using Sum = std::conditional_t<std::is_same_v<Element, double>, double, float>;
  DirectWork<Element, Sum> work{};
  work.query = static_cast<const Element*>(call.query);
  work.key = static_cast<const Element*>(call.key);
  TilePair<Sum>& p = work.pair;
  p.query = direct_map<P, Sum>(call.batch, call.query_is_shared, call.channels, call.query_height, call.query_width,
                               call.query_mask, call.most_cells);
  p.key = direct_map<P, Sum>(call.batch, call.key_is_shared, call.channels, call.key_height, call.key_width,
                             call.key_mask, call.most_cells);
  p.query.metric = p.key.metric = static_cast<Metric>(call.metric);
  p.query.is_query = true;
  p.key.weight = static_cast<const Sum*>(call.key_weight);
  p.topk = call.topk;
  p.score = static_cast<Sum*>(call.score);
  p.ranking = static_cast<Sum*>(call.ranking);
  p.index = call.index;
  Space space(call.guard_begin);
  take_direct(space, work);
  call.workspace = space.used();
  if (work.samples > call.most_samples) work.samples = call.most_samples;
  match_direct<P>(
      [&](auto kernel, int64_t blocks, int threads, int shared_bytes, const auto& argument) {
        if (blocks == 0) return;
        call.launches++;
        emulation::emulate(schedule, static_cast<int>(blocks), threads, shared_bytes, [&] { kernel(argument); });
      },
      work);
  space.check();
}

template <class Element>
void run_patch_size(const emulation::Schedule& schedule, Call& call) {
  if (call.patch_size == 3) run_call<3, Element>(schedule, call);
#if !defined(PATCHSWAP_ONE_VARIANT)
  if (call.patch_size == 1) run_call<1, Element>(schedule, call);
  if (call.patch_size == 2) run_call<2, Element>(schedule, call);
  if (call.patch_size == 4) run_call<4, Element>(schedule, call);
  if (call.patch_size == 5) run_call<5, Element>(schedule, call);
  if (call.patch_size == 7) run_call<7, Element>(schedule, call);
#endif
}

struct Counter {
  int64_t bytes = 0;
  template <class Number>
  void take(Number*&, int64_t count) {
    bytes += count * static_cast<int64_t>(sizeof(Number));
  }
};

template <int P>
int64_t planned_bytes(const Call& call, bool is_double) {
  Counter counter;
  const auto count = [&](auto sum) {
    using Sum = decltype(sum);
    DirectWork<Sum, Sum> work{};
    work.pair.query =
        direct_map<P, Sum>(call.batch, false, call.channels, call.query_height, call.query_width, nullptr);
    work.pair.key = direct_map<P, Sum>(call.batch, false, call.channels, call.key_height, call.key_width, nullptr);
    work.pair.topk = call.topk;
    take_direct(counter, work);
  };
  if (is_double) {
    count(double{});
  } else {
    count(float{});
  }
  return counter.bytes;
}

}  // namespace

extern "C" {

// Null, or what went wrong; the text lives until the next call.
const char* run_direct(const emulation::Schedule* schedule, Call* call) {
  return emulation::message_of([&] {
    if (call->dtype == 0) run_patch_size<float>(*schedule, *call);
#if !defined(PATCHSWAP_ONE_VARIANT)
    if (call->dtype == 1) run_patch_size<torch::headeronly::Half>(*schedule, *call);
    if (call->dtype == 2) run_patch_size<torch::headeronly::BFloat16>(*schedule, *call);
    if (call->dtype == 3) run_patch_size<double>(*schedule, *call);
#endif
  });
}

// Bytes of workspace that a call would take.
int64_t direct_workspace(const Call* call) {
  const bool is_double = call->dtype == 3;
  return call->patch_size == 1   ? planned_bytes<1>(*call, is_double)
         : call->patch_size == 2 ? planned_bytes<2>(*call, is_double)
         : call->patch_size == 3 ? planned_bytes<3>(*call, is_double)
         : call->patch_size == 4 ? planned_bytes<4>(*call, is_double)
         : call->patch_size == 5 ? planned_bytes<5>(*call, is_double)
                                 : planned_bytes<7>(*call, is_double);
}

int64_t call_size() { return sizeof(Call); }

}  // extern "C"
