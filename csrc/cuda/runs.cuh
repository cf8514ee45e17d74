// Host side of the runs of chosen.cuh: their memory and launches.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "chosen.cuh"
#include "launch.cuh"

namespace patchswap {

inline torch::stable::Tensor new_array(const torch::stable::Tensor& like, int64_t count,
                                       torch::headeronly::ScalarType dtype) {
  const int64_t shape[] = {count};
  return torch::stable::new_empty(like, {shape, 1}, dtype);
}

// 12 bytes for every key patch and 12 for every query, in each layer.
class RunsMemory {
 public:
  RunsMemory(const torch::stable::Tensor& like, const Chosen& shape, cudaStream_t stream)
      : keys_(shape.batch * shape.ranks * shape.key_rows * shape.key_columns),
        queries_(shape.batch * shape.ranks * shape.rows * shape.columns),
        longs_(new_array(like, 1 + keys_, torch::headeronly::ScalarType::Long)),
        ints_(new_array(like, keys_ + 3 * queries_, torch::headeronly::ScalarType::Int)) {
    check_cuda(cudaMemsetAsync(runs().used, 0, sizeof(int64_t), stream));
    check_cuda(cudaMemsetAsync(runs().length, 0, keys_ * sizeof(int32_t), stream));
  }

  Runs runs() const {
    int64_t* const longs = longs_.mutable_data_ptr<int64_t>();
    int32_t* const ints = ints_.mutable_data_ptr<int32_t>();
    return {.used = longs,
            .begin = longs + 1,
            .length = ints,
            .arrival = ints + keys_,
            .arrived = ints + keys_ + queries_,
            .ordered = ints + keys_ + 2 * queries_};
  }

 private:
  int64_t keys_, queries_;
  torch::stable::Tensor longs_, ints_;
};

// Orders runs that have been counted.
inline void order_runs(const Chosen& shape, const Runs& runs, cudaStream_t stream) {
  const int64_t layers = shape.batch * shape.ranks;
  const int64_t keys = layers * shape.key_rows * shape.key_columns, queries = layers * shape.rows * shape.columns;
  start(place_runs, run_blocks(keys), kRunThreads, kRunShared, stream, shape, runs);
  start(list_runs, run_blocks(queries), kRunThreads, 0, stream, shape, runs);
  start(sort_runs, run_blocks(queries), kRunThreads, 0, stream, shape, runs);
}

}  // namespace patchswap
