// Host side of match on the GPU: which kernels run, their workspace, and the launches.
//
// Two methods. The tensor-core search (problem.cuh) is three launches: prepare, a search, rescore. It takes 3x3
// patches, one key per query, and up to 32-bit features on compute capability 8.0 or later. Direct matching
// (match_direct.cuh) takes everything else: matrix products of tiles, in full precision.
//
// Nothing here waits for the device, and all memory is torch's, so a call can be captured in a CUDA graph.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <string>

#include "../dtype.h"
#include "../ops.h"
#include "launch.cuh"
#include "match_direct.cuh"
#include "match_mma.cuh"
#include "prepare.cuh"
#include "rescore.cuh"
#ifdef PATCHSWAP_WGMMA
#include "match_wgmma.cuh"
#endif

namespace patchswap {
namespace {

using torch::headeronly::ScalarType;

// One allocation for all of a call's arrays, laid out in two passes over the same code: the first counts.
class Workspace {
 public:
  template <class Number>
  void take(Number*& array, int64_t count) {
    if (memory_) array = reinterpret_cast<Number*>(memory_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(Number)) + 255) / 256 * 256;
  }
  int64_t used() const { return used_; }
  void place(Tensor& bytes) {
    memory_ = static_cast<unsigned char*>(bytes.mutable_data_ptr());
    used_ = 0;
  }

 private:
  unsigned char* memory_ = nullptr;
  int64_t used_ = 0;
};

// take(space) asks for every array; afterwards all lie in the tensor that this returns.
template <class Take>
Tensor allocate(const Tensor& like, const Take& take) {
  Workspace space;
  take(space);
  const int64_t bytes[] = {space.used()};
  Tensor memory = torch::stable::new_empty(like, {bytes, 1}, ScalarType::Byte);
  space.place(memory);
  take(space);
  return memory;
}

// Whether one map is that of all samples: the same memory.
bool is_shared(const Tensor& features) { return features.size(0) > 1 && features.stride(0) == 0; }

// The samples that are stored: all, or the one that is shared.
Tensor stored(const Tensor& features) {
  Tensor samples = features;
  return is_shared(samples) ? torch::stable::narrow(samples, 0, 0, 1) : samples;
}

// ---- direct matching

static_assert(kMostRanks == kMaxTopk);

template <int P, class Element>
void match_directly(const MatchCall& call, cudaStream_t stream) {
  using Sum = Accumulate<Element>;
  const auto map = [&](const Tensor& features, const std::optional<Tensor>& mask) {
    return direct_map<P, Sum>(call.batch, is_shared(features), call.channels, features.size(2), features.size(3),
                              mask ? mask->const_data_ptr<bool>() : nullptr);
  };
  DirectWork<Element, Sum> work{};
  const Tensor query = torch::stable::contiguous(stored(call.query));
  const Tensor key = is_same_map(call.query, call.key) ? query : torch::stable::contiguous(stored(call.key));
  work.query = query.const_data_ptr<Element>();
  work.key = key.const_data_ptr<Element>();
  work.pair.query = map(call.query, call.query_mask);
  work.pair.key = map(call.key, call.key_mask);
  work.pair.query.metric = work.pair.key.metric = call.metric;
  work.pair.query.is_query = true;
  work.pair.key.weight = call.key_weight ? call.key_weight->const_data_ptr<Sum>() : nullptr;
  work.pair.topk = static_cast<int>(call.topk);
  work.pair.score = call.score.mutable_data_ptr<Sum>();
  work.pair.ranking = call.ranking ? call.ranking->mutable_data_ptr<Sum>() : nullptr;
  work.pair.index = call.index.mutable_data_ptr<int64_t>();
  const auto take = [&](Workspace& space) { take_direct(space, work); };
  const Tensor memory = allocate(call.index, take);
  match_direct<P>(Launcher{stream}, work);
}

// ---- the tensor-core search

// What one device can run. Asked for once per device, as the answers take longer than a small match.
struct Device {
  int processors = 0;  // 0: not asked yet
  bool mma = false, wgmma = false;
  bool overlaps = false;  // launches: see may_be_early
};

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

// A search is compiled to an empty kernel for architectures without its instructions. The real ones use 168 registers
// and more.
constexpr int kMostRegistersOfEmptyKernel = 32;

// Whether a device can run a search: the library has code for it that is not empty, and the device has the shared
// memory. The search is then allowed that much.
template <class Kernel>
bool allow_search(Kernel kernel, int shared_bytes, int device) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) {
    cudaGetLastError();  // no code for this device: not an error of ours
    return false;
  }
  if (attributes.numRegs <= kMostRegistersOfEmptyKernel) return false;
  if (shared_bytes > attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return false;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  return true;
}

// Whether a kernel may be launched early: its code for the device waits in wait_for_launch_before(), which was decided
// when it was made PTX, and CUDA graphs can capture such launches, which they can from CUDA 12.3 on.
template <class Kernel>
bool may_be_early(Kernel kernel) {
  constexpr int kCapturesEarlyLaunches = 12030;
  int driver = 0;
  check_cuda(cudaDriverGetVersion(&driver));
  if (CUDART_VERSION < kCapturesEarlyLaunches || driver < kCapturesEarlyLaunches) return false;
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) {
    cudaGetLastError();  // no code for this device
    return false;
  }
  return attributes.ptxVersion >= 90;
}

const Device& device_of(const Tensor& tensor) {
  static std::mutex asking;
  static std::array<Device, 64> devices;  // torch numbers its devices with 8 bits, and no machine has as many
  const int number = tensor.get_device_index();
  const std::lock_guard<std::mutex> lock(asking);
  Device& device = devices.at(number);
  if (device.processors == 0) {
    device.mma = allow_search(match_mma, mma::kSharedBytes, number);
#ifdef PATCHSWAP_WGMMA
    device.wgmma = attribute(cudaDevAttrComputeCapabilityMajor, number) == 9 &&
                   attribute(cudaDevAttrComputeCapabilityMinor, number) == 0 &&
                   allow_search(match_wgmma, wgmma::kSharedBytes, number);
#endif
    device.overlaps = may_be_early(rescore);
    device.processors = attribute(cudaDevAttrMultiProcessorCount, number);
  }
  return device;
}

// Length of the lists of runs, per query of the map: kMeanList, or what fits into kMostListBytes, but kShortestList at
// least. Queries that are not searched for leave their share to the others.
constexpr int64_t kMostListBytes = int64_t(128) << 20;
constexpr int64_t kMeanList = 128, kShortestList = 64;

void take_map(Workspace& space, PackedMap& map, int64_t batch) {
  space.take(map.cells, batch * map.units * map.cell_pitch * kUnit);
  space.take(map.exact, batch * map.cell_count() * map.units * kUnit);
  space.take(map.square, batch * map.cell_count());
  space.take(map.error, batch * map.cell_count());
}

// Workspace for C channels (rounded up to kChunk): 6 C + 12 bytes for every key cell, 6 C + 25 for every query cell,
// 6 C + 29 where query and key are one tensor, and for every query 28 + 8 n bytes, where n is 128 or as many as fit
// into kMostListBytes, at least 64.
template <class Element>
void take_all(Workspace& space, Preparation<Element>& work, bool fast) {
  Problem& p = work.problem;
  const int64_t batch = p.batch, queries = batch * p.query.patches(), keys = batch * p.key.cell_count();
  // First what starts as zero, in one piece from worst_error to list_users, then what does not.
  space.take(p.worst_error, batch);
  space.take(work.query_arrivals, batch * p.query.rows());
  space.take(work.key_arrivals, batch * p.key.rows());
  space.take(p.keys_from_first, batch);
  space.take(p.list_users, 1);
  take_map(space, p.query, batch);
  if (work.one_map) {
    p.key = p.query;
    work.key_arrivals = nullptr;
  } else {
    take_map(space, p.key, batch);
  }
  space.take(p.key_factor, keys);
  space.take(p.key_shift, batch);
  space.take(p.query_norm, queries);
  space.take(p.query_margin, queries);
  space.take(p.query_scaled, queries);
  space.take(p.threshold, queries);
  space.take(p.list_count, queries);
  space.take(p.list_place, queries);
  space.take(p.list_user, queries);
  if (fast) {
    space.take(p.best, queries);
  } else {
    space.take(p.list, p.list_capacity);
  }
  space.take(p.plan, batch);
  space.take(p.slots, batch * p.group_pitch * kSlots);
  space.take(work.workspace, plan_workspace(batch, p.query.rows(), p.query.width));
}

PackedMap packed_map(const Tensor& features) {
  PackedMap map{};
  map.height = features.size(2);
  map.width = features.size(3);
  map.units = (features.size(1) + kChunk - 1) / kChunk * (kChunk / kUnit);
  map.cell_pitch = (map.cell_count() + kUnit - 1) / kUnit * kUnit;
  return map;
}

// The kernels count cells, patches and 16-byte words of a packed map in 32 bits.
bool fits_32_bits(const MatchCall& call) {
  constexpr int64_t kMost = int64_t(1) << 30;
  const int64_t units = (call.channels + kChunk - 1) / kChunk * (kChunk / kUnit);
  const auto fits = [&](int64_t height, int64_t width) {
    return call.batch * units * (height * width + kUnit) < kMost &&
           (height + kMostRows) * width + 2 * call.batch < kMost && call.batch * height * width < kMost;
  };
  return fits(call.query_height, call.query_width) && fits(call.key_height, call.key_width);
}

// Whether prepare reads a map as it lies, channels last.
template <class Element>
bool is_in_pieces(const Tensor& features) {
  return is_channels_last(features) && features.size(1) * sizeof(Element) % kPieceBytes == 0 &&
         reinterpret_cast<uintptr_t>(features.const_data_ptr()) % kPieceBytes == 0;
}

// A map as prepare reads it, copied where that is needed.
template <class Element>
Tensor readable(const Tensor& features) {
  return is_in_pieces<Element>(features) ? features : torch::stable::contiguous(features);
}

template <class Element>
void match_by_search(const MatchCall& call, cudaStream_t stream, const Device& device, bool use_wgmma) {
  Preparation<Element> work{};
  Problem& p = work.problem;
  p.query = packed_map(call.query);
  p.key = packed_map(call.key);
  p.batch = call.batch;
  p.channels = call.channels;
  p.query_mask = call.query_mask ? call.query_mask->const_data_ptr<bool>() : nullptr;
  p.key_mask = call.key_mask ? call.key_mask->const_data_ptr<bool>() : nullptr;
  const int64_t queries = p.batch * p.query.patches();
  const int64_t list_length = std::clamp<int64_t>(kMostListBytes / 8 / queries, kShortestList, kMeanList);
  p.list_capacity = std::min<int64_t>(queries * list_length, INT32_MAX);
  p.group_pitch = plan_group_pitch(p.query.rows(), p.query.width);
  p.index = call.index.mutable_data_ptr<int64_t>();
  p.score = call.score.mutable_data_ptr<float>();
  p.ranking = call.ranking ? call.ranking->mutable_data_ptr<float>() : nullptr;
  p.tally = call.tally.mutable_data_ptr<int64_t>();
  const Tensor query = readable<Element>(stored(call.query));
  const Tensor key = is_same_map(call.query, call.key) ? query : readable<Element>(stored(call.key));
  work.query = static_cast<const Element*>(query.const_data_ptr());
  work.key = static_cast<const Element*>(key.const_data_ptr());
  work.query_is_channels_last = is_in_pieces<Element>(query);
  work.key_is_channels_last = is_in_pieces<Element>(key);
  work.query_is_shared = is_shared(call.query);
  work.key_is_shared = is_shared(call.key);
  work.one_map = is_same_map(query, key);
  work.cost = {.key_stride = mma::kStretch, .match_blocks = device.processors};
#ifdef PATCHSWAP_WGMMA
  if (use_wgmma) work.cost.key_stride = wgmma::kStretch;
#endif

  const Tensor memory = allocate(call.index, [&](Workspace& space) { take_all(space, work, call.fast); });

  const auto byte = [](const void* address) { return static_cast<const unsigned char*>(address); };
  check_cuda(cudaMemsetAsync(p.worst_error, 0, byte(p.list_users + 1) - byte(p.worst_error), stream));
  start(prepare<Element>, prepare_blocks(p, work.one_map), kPrepareThreads, kPrepareShared, stream, work);
  if (use_wgmma) {
#ifdef PATCHSWAP_WGMMA
    start_early(match_wgmma, device.processors, wgmma::kThreads, wgmma::kSharedBytes, stream, device.overlaps, p);
#endif
  } else {
    start_early(match_mma, device.processors, mma::kThreads, mma::kSharedBytes, stream, device.overlaps, p);
  }
  start_early(rescore, rescore_blocks(p, device.processors), kRescoreThreads, kRescoreShared, stream, device.overlaps,
              p);
}

// What of a call the tensor-core search does not take; empty where it takes all.
std::string obstacle(const MatchCall& call) {
  if (call.patch_size != kPatch) return "patch_size is " + std::to_string(call.patch_size);
  if (call.topk != 1) return "topk is " + std::to_string(call.topk);
  if (call.query.scalar_type() == ScalarType::Double) return "the features are float64";
  if (const std::string reason = metric_obstacle(call); !reason.empty()) return reason;
  if (call.channels == 0) return "the maps have no channel";
  if (call.key_rows == 0) return "there is no key patch";
  if (!fits_32_bits(call)) return "the packed features are 2^30 16-byte words or more";
  return "";
}

}  // namespace

KernelChoice choose_cuda(const MatchCall& call) {
  const std::string& method = call.method;
  if (method == "direct") return {method, "the method asked for"};
  const torch::stable::accelerator::DeviceGuard guard(call.query.get_device_index());
  const Device& device = device_of(call.query);
  const std::string reason = obstacle(call);
  if (method == "auto") {
    if (!reason.empty()) return {"direct", reason + ", which the tensor-core search does not take"};
    if (device.wgmma) return {"wgmma", "a Hopper GPU, for which the library was built"};
    if (device.mma) return {"mma", "tensor cores, but no Hopper GPU or a library built without architecture 9.0a"};
    return {"direct", "no tensor cores that the search can use, or a library built without this GPU's architecture"};
  }
  STD_TORCH_CHECK(
      reason.empty(), "patchswap.match: method \"", method,
      "\" takes metric \"ncc\" without key_weight, patch_size 3, topk 1, float32, bfloat16 or float16 "
      "features with at least one channel and one key patch, and fewer than 2^30 16-byte words of packed features; ",
      reason, "; use \"auto\"");
  STD_TORCH_CHECK(method == "mma" ? device.mma : device.wgmma, "patchswap.match: method \"", method,
                  "\" is not there on this GPU or in this build; use \"auto\"");
  return {method, "the method asked for"};
}

void match_cuda(const MatchCall& call) {
  const torch::stable::accelerator::DeviceGuard guard(call.query.get_device_index());
  const cudaStream_t stream = current_stream(call.query);
  const KernelChoice choice = call.queries() == 0 ? KernelChoice{"direct", "there is no query"} : choose_cuda(call);
  log_choice(call, choice);
  if (choice.kernel == "direct") {
    check_cuda(cudaMemsetAsync(call.tally.mutable_data_ptr(), 0, 2 * sizeof(int64_t), stream));
    if (call.queries() == 0) return;
    with_element_type(call.query.scalar_type(), [&](auto element) {
      with_patch_size(call.patch_size, [&](auto patch_size) {
        match_directly<decltype(patch_size)::value, decltype(element)>(call, stream);
      });
    });
    return;
  }
  const auto search = [&](auto element) {
    match_by_search<decltype(element)>(call, stream, device_of(call.query), choice.kernel == "wgmma");
  };
  switch (call.query.scalar_type()) {
    case ScalarType::Half:
      return search(Half{});
    case ScalarType::BFloat16:
      return search(BFloat16{});
    default:
      return search(float{});
  }
}

#define PATCHSWAP_TEXT_OF(...) #__VA_ARGS__
#define PATCHSWAP_TEXT(...) PATCHSWAP_TEXT_OF(__VA_ARGS__)

const char* cuda_toolkit() { return PATCHSWAP_TEXT(__CUDACC_VER_MAJOR__) "." PATCHSWAP_TEXT(__CUDACC_VER_MINOR__); }

}  // namespace patchswap
