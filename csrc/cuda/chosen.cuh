// Which key patch each query chose, and the queries of each key patch, for kernels that copy patches or compare them.
//
// What a key cell gets comes from the queries that chose a patch with that cell. They are kept as one run of queries
// for each key patch and rank: counted, listed in the order in which atomics let them arrive, and then ordered, by
// counting for each query those of its run that come before it. That takes time with the square of the longest runs,
// but most have a few members, it is done once for all channels, and a sort of the index takes about a dozen launches.
#pragma once

#include <cstdint>

#include "device.cuh"

namespace patchswap {

constexpr int kRunThreads = 256;
constexpr int kRunShared = kRunThreads * 4 + kRunThreads / kWarp * 8;  // bytes of shared memory of place_runs
// Of either map, in one channel of one sample: cells, and all that is counted within a sample, are numbered in 32 bits.
constexpr int64_t kMostCells = 1 << 30;

// Sizes as in struct FoldCall. A layer is what one rank of one sample chose; layers are counted through the batch.
struct Chosen {
  const int64_t* index;  // [B][ranks][rows][columns]
  int64_t batch;
  int height, width, key_height, key_width;
  int ranks, rows, columns, key_rows, key_columns;
  int patch_size;

  PATCHSWAP_DEVICE int cells() const { return height * width; }
  PATCHSWAP_DEVICE int keys() const { return key_rows * key_columns; }
  PATCHSWAP_DEVICE int queries() const { return rows * columns; }
  PATCHSWAP_DEVICE int64_t layers() const { return batch * ranks; }
  // The key patch that the query at (row, column) has in this layer, or -1.
  PATCHSWAP_DEVICE int key_of(int64_t layer, int row, int column) const {
    const bool is_query = row >= 0 && row < rows && column >= 0 && column < columns;
    const int64_t key = is_query ? index[layer * queries() + row * columns + column] : -1;
    return key >= 0 && key < keys() ? static_cast<int>(key) : -1;
  }
  // The run of the key patch at (row, column), -1 where there is none.
  PATCHSWAP_DEVICE int64_t run_of(int64_t layer, int row, int column) const {
    const bool is_key = row >= 0 && row < key_rows && column >= 0 && column < key_columns;
    return is_key ? layer * keys() + row * key_columns + column : -1;
  }
  // The key cell in row dy and column dx of this key patch.
  PATCHSWAP_DEVICE int key_cell(int key, int dy, int dx) const {
    return (key / key_columns + dy) * key_width + key % key_columns + dx;
  }
};

// The queries that chose each key patch.
struct Runs {
  int64_t* used;     // [1] how much of the lists has been given to runs; starts at 0
  int64_t* begin;    // [layers][keys] where in the lists the run begins
  int32_t* length;   // [layers][keys] starts at 0
  int32_t* arrival;  // [layers][queries] place within its run at which a matched query arrived
  int32_t* arrived;  // [layers * queries] top-left cells of queries, run by run, in the order of arrival
  int32_t* ordered;  // [layers * queries] the same, each run ascending
};

// ---- runs

PATCHSWAP_DEVICE int64_t run_thread() { return static_cast<int64_t>(block_index()) * kRunThreads + thread_index(); }
inline int64_t run_blocks(int64_t threads) { return (threads + kRunThreads - 1) / kRunThreads; }

// The copy of a thread of the kernels below, which have one thread per copy.
struct Member {
  int64_t copy = 0, run = -1;  // counted through the layers; run is -1 for a query without a match
  int cell = 0;                // top-left one of the query

  PATCHSWAP_DEVICE explicit Member(const Chosen& p) {
    copy = run_thread();
    if (copy >= p.layers() * p.queries()) return;
    const int64_t layer = copy / p.queries();
    const int place = static_cast<int>(copy % p.queries()), row = place / p.columns, column = place % p.columns;
    const int key = p.key_of(layer, row, column);
    cell = row * p.width + column;
    if (key >= 0) run = layer * p.keys() + key;
  }
};

// Counts the runs, and at which place of its run this thread's copy arrived.
PATCHSWAP_DEVICE void count_run(const Chosen& p, const Runs& runs) {
  const Member member(p);
  if (member.run >= 0) runs.arrival[member.copy] = atomic_add(runs.length + member.run, 1);
}

// One thread per (layer, key): a place in the lists for its run. A warp asks for all of its runs together. Where a
// run lies depends on which warp comes first; what is read from it does not.
PATCHSWAP_KERNEL(kRunThreads)
place_runs(const Chosen p, const Runs runs) {
  const Shared<int64_t> begins = shared_memory<int64_t>(0, kRunThreads / kWarp);
  const Shared<int> lengths = shared_memory<int>(kRunThreads / kWarp * 8, kRunThreads);
  const int64_t key = run_thread();
  const bool exists = key < p.layers() * p.keys();
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  lengths.store(thread, exists ? runs.length[key] : 0);
  warp_barrier();
  int64_t before = 0, all = 0;  // lengths of this warp's runs
  for (int i = 0; i < kWarp; i++) {
    const int length = lengths.load(warp * kWarp + i);
    before += i < lane ? length : 0;
    all += length;
  }
  if (lane == 0) begins.store(warp, all > 0 ? atomic_add(runs.used, all) : 0);
  warp_barrier();
  if (exists) runs.begin[key] = begins.load(warp) + before;
}

PATCHSWAP_KERNEL(kRunThreads)
list_runs(const Chosen p, const Runs runs) {
  const Member member(p);
  if (member.run >= 0) runs.arrived[runs.begin[member.run] + runs.arrival[member.copy]] = member.cell;
}

PATCHSWAP_KERNEL(kRunThreads)
sort_runs(const Chosen p, const Runs runs) {
  const Member member(p);
  if (member.run < 0) return;
  const int64_t begin = runs.begin[member.run];
  const int length = runs.length[member.run];
  int place = 0;
  for (int i = 0; i < length; i++) place += runs.arrived[begin + i] < member.cell;
  runs.ordered[begin + place] = member.cell;
}

}  // namespace patchswap
