// Accesses to shared memory, and the copies that write to it asynchronously.
#include <algorithm>
#include <bit>
#include <cstring>

#include "scheduler.h"

namespace patchswap::emulation {

// ---- accesses to shared memory

void report_access(const char* what, const Thread& thread, uint32_t byte, Where where) {
  const Block& block = *thread.block;
  const LastWrite& write = block.writes[byte / kGranule];
  if (write.stamp == kUnderWay && write.thread == static_cast<uint32_t>(block.thread_count)) {
    fault(where, "%s of byte %u of shared memory while a bulk copy that writes it is under way", what, byte);
  }
  if (write.stamp == kUnderWay) {
    fault(where, "%s of byte %u of shared memory while the asynchronous copy of thread %u that writes it is under way",
          what, byte, write.thread);
  }
  if (write.stamp == 0) fault(where, "read of byte %u of shared memory, which nothing has written", byte);
  if (write.thread == static_cast<uint32_t>(block.thread_count)) {
    fault(where, "race: %s of byte %u of shared memory that a bulk copy wrote, before waiting at its barrier", what,
          byte);
  }
  fault(where, "race: %s of byte %u of shared memory that thread %u wrote, with no barrier between", what, byte,
        write.thread);
}

// `issuer` is whose knowledge counts, `writer` who will have written: a thread, or the copy engine.
static void note_write_by(const Thread& issuer, uint32_t writer, uint32_t byte, uint32_t bytes, uint32_t stamp,
                          Where where) {
  Block& block = *issuer.block;
  for (uint32_t granule = byte / kGranule; granule * kGranule < byte + bytes; granule++) {
    LastWrite& write = block.writes[granule];
    if (is_unordered(issuer, write)) report_access("write", issuer, granule * kGranule, where);
    LastReads* reads = &block.reads[granule * static_cast<uint32_t>(block.warp_count)];
    for (int warp = 0; warp < block.warp_count; warp++) {
      const LastReads& read = reads[warp];
      if (read.stamp == 0) continue;
      if (read.stamp == kUnderWay) {
        fault(where, "write of byte %u of shared memory while a matrix product of warp %d reads it", granule * kGranule,
              warp);
      }
      uint32_t lanes = read.lanes;
      if (warp == issuer.warp) lanes &= ~(1u << issuer.lane);
      for (; lanes != 0; lanes &= lanes - 1) {
        const int reader = warp * kLanes + std::countr_zero(lanes);
        if (read.stamp > issuer.knowledge[reader]) {
          fault(where, "race: write of byte %u of shared memory that thread %d read, with no barrier between",
                granule * kGranule, reader);
        }
      }
      reads[warp] = {};
    }
    write = {stamp, writer};
  }
}

void note_write(uint32_t byte, uint32_t bytes, uint32_t stamp, Where where) {
  note_write_by(*current, static_cast<uint32_t>(current->index), byte, bytes, stamp, where);
}

// ---- asynchronous copies

namespace {

constexpr uint32_t kCopyBytes = 16;

void arrive(Copy& copy) {
  unsigned char* target = current->block->shared + copy.target;
  if (copy.present) {
    std::memcpy(target, copy.source, kCopyBytes);
  } else {
    std::memset(target, 0, kCopyBytes);
  }
  copy.arrived = true;
}

}  // namespace

void issue_copy(uint32_t target, const void* source, bool present, Where where) {
  expect_launch_before(where);
  if (target % kCopyBytes != 0) fault(where, "copy_async to byte %u of shared memory, not a multiple of 16", target);
  if (present && reinterpret_cast<uintptr_t>(source) % kCopyBytes != 0) {
    fault(where, "copy_async from an address that is not a multiple of 16");
  }
  note_write(target, kCopyBytes, kUnderWay, where);
  current->copies.push_back({target, source, present, false});
  if (arrives_at_once()) arrive(current->copies.back());
}

void commit_copies() {
  current->groups.push_back(std::move(current->copies));
  current->copies.clear();
}

void wait_for_copies(int pending) {
  Thread& thread = *current;
  while (static_cast<int>(thread.groups.size()) > pending) {
    for (Copy& copy : thread.groups.front()) {
      if (!copy.arrived) arrive(copy);
      for (uint32_t byte = 0; byte < kCopyBytes; byte += kGranule) {
        thread.block->writes[(copy.target + byte) / kGranule].stamp = thread.stamp;
      }
    }
    thread.groups.erase(thread.groups.begin());
  }
  yield();
}

// ---- bulk copies and their barriers

namespace {

CopyBarrier* find_copy_barrier(Block& block, uint32_t byte) {
  for (CopyBarrier& barrier : block.copy_barriers) {
    if (barrier.byte == byte) return &barrier;
  }
  return nullptr;
}

CopyBarrier& copy_barrier(uint32_t byte, Where where) {
  Block& block = *current->block;
  CopyBarrier* barrier = find_copy_barrier(block, byte);
  if (barrier == nullptr) fault(where, "no copy barrier was started at byte %u of shared memory", byte);
  if (is_unordered(*current, block.writes[byte / kGranule])) report_access("use", *current, byte, where);
  if (!barrier->visible && barrier->starter != current) {
    fault(where, "the copy barrier at byte %u of shared memory was started without a fence for that", byte);
  }
  return *barrier;
}

void end_phase_if_complete(CopyBarrier& barrier) {
  if (barrier.missing_arrivals != 0 || barrier.missing_bytes != 0) return;
  barrier.phase++;
  barrier.missing_arrivals = barrier.expected;
  join(barrier.knowledge, barrier.released.data());
  const std::vector<Thread*> threads = in_order(std::move(barrier.waiting));
  barrier.waiting.clear();
  make_runnable(threads);
}

void finish(const BulkCopy& copy) {
  Thread* const running = current;
  current = copy.issuer;  // for the report, should the source be out of bounds
  Block& block = *copy.issuer->block;
  std::memcpy(block.shared + copy.target, copy.source, copy.bytes);
  for (uint32_t byte = copy.target; byte < copy.target + copy.bytes; byte += kGranule) {
    block.writes[byte / kGranule].stamp = copy.stamp;
  }
  CopyBarrier& barrier = *find_copy_barrier(block, copy.barrier);
  barrier.missing_bytes -= copy.bytes;
  uint32_t& released = barrier.released[static_cast<size_t>(block.thread_count)];
  released = std::max(released, copy.stamp);
  end_phase_if_complete(barrier);
  current = running;
}

}  // namespace

bool finish_a_bulk_copy() {
  for (const auto& block : launch->resident) {
    std::vector<BulkCopy>& copies = block->bulk_copies;
    if (copies.empty()) continue;
    if (launch->schedule.order == kRandom) std::swap(copies.front(), copies[launch->next_random() % copies.size()]);
    const BulkCopy copy = copies.front();
    copies.erase(copies.begin());
    finish(copy);
    return true;
  }
  return false;
}

void start_copy_barrier(uint32_t byte, int arrivals, Where where) {
  Block& block = *current->block;
  if (arrivals < 1) fault(where, "a copy barrier for %d arrivals", arrivals);
  note_write(byte, 8, current->stamp, where);
  if (find_copy_barrier(block, byte)) fault(where, "the copy barrier at byte %u was started before", byte);
  CopyBarrier barrier = {};
  barrier.byte = byte;
  barrier.starter = current;
  barrier.expected = barrier.missing_arrivals = arrivals;
  barrier.released.assign(static_cast<size_t>(block.thread_count) + 1, 0);
  barrier.knowledge = barrier.released;
  block.copy_barriers.push_back(barrier);
}

void fence_for_started_barriers() {
  for (CopyBarrier& barrier : current->block->copy_barriers) barrier.visible |= barrier.starter == current;
}

void announce_bytes(uint32_t byte, int bytes, Where where) { copy_barrier(byte, where).missing_bytes += bytes; }

void arrive_at_copy_barrier(uint32_t byte, Where where) {
  Thread& thread = *current;
  CopyBarrier& barrier = copy_barrier(byte, where);
  if (barrier.missing_arrivals == 0) fault(where, "more arrivals than the %d of this copy barrier", barrier.expected);
  join(barrier.released, thread.knowledge);
  uint32_t& own = barrier.released[static_cast<size_t>(thread.index)];
  own = std::max(own, thread.stamp);
  thread.stamp = thread.block->next_stamp++;
  barrier.missing_arrivals--;
  end_phase_if_complete(barrier);
  yield();
}

void wait_at_copy_barrier(uint32_t byte, int parity, Where where) {
  Thread& thread = *current;
  CopyBarrier& barrier = copy_barrier(byte, where);
  if (static_cast<int>(barrier.phase % 2) == parity) {
    barrier.waiting.push_back(&thread);
    wait("a copy barrier", where);
  } else {
    yield();
  }
  if (thread.knowledge != thread.own_knowledge.data()) {
    thread.own_knowledge.assign(thread.knowledge, thread.knowledge + thread.block->thread_count + 1);
    thread.knowledge = thread.own_knowledge.data();
  }
  join(thread.own_knowledge, copy_barrier(byte, where).knowledge.data());
}

void issue_bulk_copy(uint32_t target, const void* source, uint32_t bytes, uint32_t barrier, Where where) {
  expect_launch_before(where);
  Block& block = *current->block;
  if (target % 16 != 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(source) % 16 != 0) {
    fault(where, "a bulk copy of %u bytes to byte %u: addresses and size must be multiples of 16", bytes, target);
  }
  if (target + bytes > static_cast<uint32_t>(block.shared_bytes)) {
    fault(where, "a bulk copy to bytes %u to %u of %d", target, target + bytes, block.shared_bytes);
  }
  if (!copy_barrier(barrier, where).visible) {
    fault(where, "a bulk copy to a copy barrier that was started without a fence for that");
  }
  note_write_by(*current, static_cast<uint32_t>(block.thread_count), target, bytes, kUnderWay, where);
  block.bulk_copies.push_back({target, bytes, barrier, block.next_stamp++, source, current, where});
  if (launch->schedule.order == kForward) finish_a_bulk_copy();
}

void fence_for_asynchronous_reads() {
  Thread& thread = *current;
  join(thread.block->fenced, thread.knowledge);
  uint32_t& own = thread.block->fenced[static_cast<size_t>(thread.index)];
  own = std::max(own, thread.stamp);
  thread.stamp = thread.block->next_stamp++;
  yield();
}

}  // namespace patchswap::emulation
