// Launching kernels on torch's current stream.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

// Weak: where torch has no CUDA the symbol is missing, and the library must load all the same.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace patchswap {

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "patchswap: this torch has no CUDA; install a CUDA build of torch");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline void check_cuda(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "patchswap: CUDA failed: ", cudaGetErrorString(error));
}

// All blocks lie in grid.x, whose limit of 2^31 - 1 blocks is beyond any memory; the other dimensions end at 65535.
template <class... Arguments>
void start(void (*kernel)(Arguments...), int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
           const Arguments&... arguments) {
  if (blocks == 0) return;
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "patchswap: ", blocks, " blocks exceed one launch; use a smaller batch");
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(arguments...);
  check_cuda(cudaGetLastError());
}

// The same, but the kernel may begin while the launch before it still runs, where `overlaps`: it calls
// wait_for_launch_before(), and its code is of compute capability 9.0 or later, where that waits.
template <class... Arguments>
void start_early(void (*kernel)(Arguments...), int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
                 bool overlaps, const Arguments&... arguments) {
  if (!overlaps) return start(kernel, blocks, threads, shared_bytes, stream, arguments...);
  if (blocks == 0) return;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch{};
  launch.gridDim = static_cast<unsigned>(blocks);
  launch.blockDim = static_cast<unsigned>(threads);
  launch.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  launch.stream = stream;
  launch.attrs = &early;
  launch.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&launch, kernel, arguments...));
}

// The same for host code that does not know torch or streams.
struct Launcher {
  cudaStream_t stream;

  template <class Argument>
  void operator()(void (*kernel)(Argument), int64_t blocks, int threads, int shared_bytes,
                  const Argument& argument) const {
    start(kernel, blocks, threads, shared_bytes, stream, argument);
  }
};

}  // namespace patchswap
