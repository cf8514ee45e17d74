// Running the work of one thread (a struct with operator()(thread)) over any number of them, on torch's current stream.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

// Weak: where torch has no CUDA the symbol is missing, and the library must load all the same.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace patchswap {

constexpr int64_t kThreadsPerBlock = 128;

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr,
                  "patchswap: this torch has no CUDA; install a CUDA build of torch");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

template <class Work>
__global__ void __launch_bounds__(kThreadsPerBlock) run(Work work, int64_t threads) {
  const int64_t thread = blockIdx.x * kThreadsPerBlock + threadIdx.x;
  if (thread < threads) work(thread);
}

// work(i) for i in [0, threads). All blocks lie in grid.x, whose limit of 2^31 - 1 blocks of 128 is beyond any memory;
// the other grid dimensions end at 65535.
template <class Work>
void launch(cudaStream_t stream, int64_t threads, Work work) {
  if (threads == 0) return;
  const int64_t blocks = (threads + kThreadsPerBlock - 1) / kThreadsPerBlock;
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "patchswap: ", threads,
                  " threads exceed one launch; use a smaller batch");
  run<<<static_cast<unsigned>(blocks), kThreadsPerBlock, 0, stream>>>(work, threads);
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "patchswap: kernel launch failed: ", cudaGetErrorString(error));
}

}  // namespace patchswap
