// The CUDA execution model on one CPU thread: the threads of a launch are fibres that a scheduler resumes one at a
// time, in an order that is part of the test. emulated_device.h gives the kernels their names on top of this.
//
// Where a fibre may be put aside: at every barrier, warp collective, atomic, fence and copy wait; in the random
// schedule also at some stores to shared memory. Everything else runs to the next such point undisturbed.
//
// Races in shared memory. Time of a thread is cut into segments by what orders it with other threads (barriers, warp
// collectives). Each segment has a stamp, from a counter that only grows. A thread's `knowledge[u]` is the stamp of the
// last segment of thread u that is known to lie wholly before the present one: a barrier sets it, for each pair of
// threads that pass it, to the segment that u ended there, and hands on what u knew. Each two bytes of shared memory
// remember who wrote them in which segment, and which lanes of each warp read them in which segment since. An access is
// a race if it meets a write, or is a write and meets a read, that its thread does not know. This depends on what
// orders the accesses, not on the order in which they happened to run, so any schedule finds a missing barrier. (Only
// the last segment of a warp's reads is kept: of two unordered reads of one warp the older may be forgotten.) While an
// asynchronous copy is under way its target counts as written in a segment that nobody knows, its own thread neither.
//
// Bulk copies are written by a copy engine, which counts as one more thread of the block; who waits at a copy barrier
// learns of what it wrote, and of what those knew who arrived there. Products of warpgroups read their operands until
// they are waited for; what ordinary stores wrote there must have been fenced for that.
//
// Fences of global memory order nothing here, as all threads see its writes at once; one that is missing stays hidden.
// Global memory has no race check; there the schedules and the comparison of their results must do. Buffers from
// guarded_allocate lie between inaccessible pages, so an access out of bounds is a fault like the others.
#pragma once

#include <cstdint>
#include <source_location>
#include <vector>

namespace patchswap::emulation {

using Where = std::source_location;

constexpr int kLanes = 32;
constexpr int kNamedBarriers = 16;
constexpr int kGranule = 2;  // bytes that share one memory of accesses
constexpr uint32_t kUnderWay = UINT32_MAX;

enum Order : int32_t { kForward, kReverse, kRandom };

// Forward lets asynchronous copies arrive at once, reverse as late as allowed, random either way.
struct Schedule {
  Order order;
  int32_t resident_blocks;  // blocks under way at the same time
  uint64_t seed;
};

// A function of no arguments. (The headers that kernels see are few and small, as each of many mutants compiles them.)
struct Call {
  void (*call)(const void* function);
  const void* function;

  template <class Function>
  explicit Call(const Function& given)
      : call([](const void* function) { (*static_cast<const Function*>(function))(); }), function(&given) {}
  void operator()() const { call(function); }
};

// Runs kernel() for every thread of every block. Throws std::runtime_error with a message that names thread and source
// line where the kernel does what CUDA forbids.
// is_early: as start_early launches it. Every thread must then wait for the launch before, and does nothing with global
// memory until it has, as far as atomics, copies and fresh loads tell.
void emulate_call(const Schedule& schedule, int blocks, int threads, int shared_bytes, const Call& kernel,
                  bool is_early);
template <class Kernel>
void emulate(const Schedule& schedule, int blocks, int threads, int shared_bytes, const Kernel& kernel,
             bool is_early = false) {
  emulate_call(schedule, blocks, threads, shared_bytes, Call(kernel), is_early);
}

// Atomic operations of this thread's launches so far, on ints: each of them waits for memory on a GPU.
struct AtomicCounts {
  int64_t maxima, additions;
};
extern thread_local AtomicCounts atomic_counts __attribute__((tls_model("initial-exec")));

// Calls work(), which launches kernels. Null, or what went wrong; the text lives until the next call.
const char* message_of_call(const Call& work);
template <class Work>
const char* message_of(const Work& work) {
  return message_of_call(Call(work));
}

// Ends the launch with this message, printf-like, preceded by the thread that runs.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fault(Where where, const char* format, ...);

struct Block;

struct Copy {
  uint32_t target;  // byte in shared memory
  const void* source;
  bool present, arrived;
};

struct Thread {
  Block* block;
  int index, warp, lane;
  uint32_t stamp;                       // of the present segment
  uint32_t* knowledge;                  // by thread of the block, and of the copy engine; the warp's, or own_knowledge
  std::vector<uint32_t> own_knowledge;  // in use from a wait at a copy barrier to the next meeting of the warp
  const char* waiting_for;              // null unless it waits
  Where waiting_at;
  bool ended, has_waited;  // for the launch before
  int fresh_loads;
  std::vector<Copy> copies;               // issued since the last commit
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  void* context;
};

// A matrix product of a warpgroup, as far as one of its warps is concerned.
struct Product {
  int columns;
  float* sum[kLanes];
  uint64_t left, right;  // matrix descriptors
  bool accumulate, done;
  Where where;
};

// 32 lanes that meet; what they bring is combined by the last one to come.
struct Warp {
  const char* collective;
  Where where;
  uint32_t arrived;
  std::vector<uint32_t> knowledge;
  uint32_t value[kLanes];   // brought by each lane
  int32_t source[kLanes];   // a lane's choice of another
  uint32_t result[kLanes];  // for each lane
  float* sum[kLanes];
  const uint32_t* left[kLanes];
  const uint32_t* right[kLanes];
  uint64_t descriptor[2][kLanes];
  bool products_fenced;                              // the registers of products may be used by the next one
  std::vector<Product> products;                     // issued since the last commit
  std::vector<std::vector<Product>> product_groups;  // committed, oldest first
  int products_issued;
};

struct Barrier {
  Where where;
  int expected;
  std::vector<Thread*> waiting;
};

// An mbarrier. Its phase ends when `expected` arrivals came and no announced byte of bulk copies is missing.
struct CopyBarrier {
  uint32_t byte;  // of shared memory
  const Thread* starter;
  bool visible;  // to others than the starter
  int expected, missing_arrivals;
  int64_t missing_bytes;
  uint32_t phase;                             // phases that have ended
  std::vector<uint32_t> released, knowledge;  // of arrivals in this phase; handed out to those who wait
  std::vector<Thread*> waiting;
};

struct BulkCopy {
  uint32_t target, bytes, barrier, stamp;
  const void* source;
  Thread* issuer;
  Where where;
};

struct LastWrite {
  uint32_t stamp;  // 0: nothing wrote yet
  uint32_t thread;
};
struct LastReads {
  uint32_t stamp;  // 0: no read since the last write
  uint32_t lanes;
};

struct Block {
  int index, thread_count, warp_count, ended;
  uint32_t next_stamp;
  int shared_bytes;
  std::vector<unsigned char> memory;
  unsigned char* shared;  // aligned to 1024 bytes
  std::vector<LastWrite> writes;
  std::vector<LastReads> reads;  // [granule][warp]
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barriers[kNamedBarriers];
  std::vector<CopyBarrier> copy_barriers;
  std::vector<BulkCopy> bulk_copies;  // under way, oldest first
  std::vector<uint32_t> fenced;       // by thread: its writes up to this segment are visible to asynchronous reads
};

// The thread that runs, and the launch that it belongs to.
extern thread_local Thread* current __attribute__((tls_model("initial-exec")));
int block_count();

void wait_for_launch_before();
void expect_launch_before(Where where);  // to have been waited for

void yield();
void yield_at_store();
void wait_at_barrier(int id, int threads, Where where);
void issue_copy(uint32_t target, const void* source, bool present, Where where);
void commit_copies();
void wait_for_copies(int pending);
void fresh_load(Where where);

void start_copy_barrier(uint32_t byte, int arrivals, Where where);
void fence_for_started_barriers();
void announce_bytes(uint32_t byte, int bytes, Where where);
void arrive_at_copy_barrier(uint32_t byte, Where where);
void wait_at_copy_barrier(uint32_t byte, int parity, Where where);
void issue_bulk_copy(uint32_t target, const void* source, uint32_t bytes, uint32_t barrier, Where where);
void fence_for_asynchronous_reads();

void fence_products(Where where);
void issue_product(float* sum, int columns, uint64_t left, uint64_t right, bool accumulate, Where where);
void commit_products(Where where);
void wait_for_products(int pending, Where where);

// Brings the current lane to a meeting of its warp; true for the last lane, which combines and then calls leave_warp.
bool meet_warp(const char* collective, Where where);
void leave_warp();
void combine_products(Warp& warp);

inline Warp& current_warp() { return current->block->warps[current->warp]; }

void report_access(const char* what, const Thread& thread, uint32_t byte, Where where);

inline bool is_unordered(const Thread& thread, const LastWrite& write) {
  return write.stamp > thread.knowledge[write.thread] &&
         (write.thread != static_cast<uint32_t>(thread.index) || write.stamp == kUnderWay);
}

inline void note_read(uint32_t byte, uint32_t bytes, Where where) {
  Thread& thread = *current;
  Block& block = *thread.block;
  for (uint32_t granule = byte / kGranule; granule * kGranule < byte + bytes; granule++) {
    const LastWrite& write = block.writes[granule];
    if (is_unordered(thread, write) || write.stamp == 0) report_access("read", thread, granule * kGranule, where);
    LastReads& read = block.reads[granule * block.warp_count + thread.warp];
    if (read.stamp == kUnderWay) continue;  // of a matrix product of this warp, which lasts longer
    if (read.stamp != thread.stamp) read = {thread.stamp, 0};
    read.lanes |= 1u << thread.lane;
  }
}

void note_write(uint32_t byte, uint32_t bytes, uint32_t stamp, Where where);

}  // namespace patchswap::emulation
