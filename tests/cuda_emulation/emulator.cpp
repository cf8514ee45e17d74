#include "emulator.h"

#include <signal.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "scheduler.h"

namespace patchswap::emulation {

thread_local Thread* current __attribute__((tls_model("initial-exec"))) = nullptr;
thread_local AtomicCounts atomic_counts __attribute__((tls_model("initial-exec"))) = {0, 0};
thread_local Launch* launch __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

constexpr int kMostFreshLoads = 1 << 16;  // of one thread: more is a loop that nothing ends

// Stacks and shared memory of the last launch, kept for the next.
thread_local std::vector<std::unique_ptr<Fibre>> idle_fibres;

std::string text(Where where) {
  const char* slash = std::strrchr(where.file_name(), '/');
  return std::string(slash ? slash + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

std::string name(const Thread& thread) {
  return "block " + std::to_string(thread.block->index) + " thread " + std::to_string(thread.index);
}

Thread* take_next() {
  std::deque<Thread*>& runnable = launch->runnable;
  if (launch->schedule.order == kRandom && launch->next_random() % 8 == 0) finish_a_bulk_copy();
  while (runnable.empty()) {
    if (!finish_a_bulk_copy()) return nullptr;
  }
  if (launch->schedule.order == kRandom) {
    std::swap(runnable.front(), runnable[launch->next_random() % runnable.size()]);
  }
  Thread* next = runnable.front();
  runnable.pop_front();
  return next;
}

void resume(Fibre& from, Thread* next) {
  current = next;
  switch_fibre(from, *static_cast<Fibre*>(next->context));
}

// The current thread stops here until something resumes it.
void reschedule() {
  Thread* self = current;
  Thread* next = take_next();
  if (next == self) return;
  Fibre& own = *static_cast<Fibre*>(self->context);
  if (next) {
    resume(own, next);
  } else {
    switch_fibre(own, launch->scheduler);
  }
}

}  // namespace

void make_runnable(const std::vector<Thread*>& threads) {
  for (Thread* thread : threads) {
    thread->waiting_for = nullptr;
    launch->runnable.push_back(thread);
  }
}

std::vector<Thread*> in_order(std::vector<Thread*> threads) {
  std::sort(threads.begin(), threads.end(), [](Thread* left, Thread* right) {
    return launch->schedule.order == kReverse ? left->index > right->index : left->index < right->index;
  });
  return threads;
}

bool arrives_at_once() {
  if (launch->schedule.order == kRandom) return launch->next_random() % 2 == 0;
  return launch->schedule.order == kForward;
}

void wait(const char* what, Where where) {
  current->waiting_for = what;
  current->waiting_at = where;
  reschedule();
}

void join(std::vector<uint32_t>& knowledge, const uint32_t* other) {
  for (size_t i = 0; i < knowledge.size(); i++) knowledge[i] = std::max(knowledge[i], other[i]);
}

namespace {

void advance(Block& block, const std::vector<Thread*>& threads) {
  const uint32_t stamp = block.next_stamp++;
  for (Thread* thread : threads) thread->stamp = stamp;
}

// Everything that these whole warps did so far now lies before everything that they do from here.
void order(Block& block, const std::vector<Thread*>& threads) {
  std::vector<uint32_t> joined(static_cast<size_t>(block.thread_count) + 1, 0);
  std::vector<char> takes_part(static_cast<size_t>(block.warp_count), 0);
  for (Thread* thread : threads) takes_part[thread->warp] = 1;
  for (int warp = 0; warp < block.warp_count; warp++) {
    if (takes_part[warp]) join(joined, block.warps[warp].knowledge.data());
  }
  for (Thread* thread : threads) {
    if (thread->knowledge == thread->own_knowledge.data()) join(joined, thread->knowledge);
    thread->knowledge = block.warps[thread->warp].knowledge.data();
    joined[thread->index] = std::max(joined[thread->index], thread->stamp);
  }
  for (int warp = 0; warp < block.warp_count; warp++) {
    if (takes_part[warp]) std::copy(joined.begin(), joined.end(), block.warps[warp].knowledge.begin());
  }
  advance(block, threads);
}

void open_barrier(Block& block, Barrier& barrier) {
  const std::vector<Thread*> threads = in_order(std::move(barrier.waiting));
  barrier.waiting.clear();
  order(block, threads);
  make_runnable(threads);
}

void end_block(const Block& block) {
  if (!block.bulk_copies.empty())
    fault(block.bulk_copies.front().where, "the block ended while this copy is under way");
  for (int i = 0; i < block.warp_count; i++) {
    if (block.warps[i].products_issued != block.warps[i / 4 * 4].products_issued) {
      fault(Where(), "warps of one warpgroup have issued different numbers of products");
    }
  }
}

void run_thread() {
  Thread& thread = *current;
  (*launch->kernel)();
  Block& block = *thread.block;
  Warp& warp = block.warps[thread.warp];
  if (warp.arrived != 0) {
    fault(warp.where, "the thread has ended while other lanes of its warp wait at %s", warp.collective);
  }
  if (launch->is_early && !thread.has_waited) {
    fault(Where::current(), "the thread has ended without a wait for the launch before");
  }
  thread.ended = true;
  block.ended++;
  Barrier& barrier = block.barriers[0];
  if (!barrier.waiting.empty() && static_cast<int>(barrier.waiting.size()) == block.thread_count - block.ended) {
    open_barrier(block, barrier);
  }
  if (block.ended == block.thread_count) {
    end_block(block);
    launch->finished = &block;
  }
  Thread* next = block.ended == block.thread_count ? nullptr : take_next();
  Fibre& own = *static_cast<Fibre*>(thread.context);
  if (next) resume(own, next);
  switch_fibre(own, launch->scheduler);
}

void start_block(Block& block, int slot, int index) {
  const Launch& l = *launch;
  block.index = index;
  block.thread_count = l.threads;
  block.warp_count = l.threads / kLanes;
  block.ended = 0;
  block.next_stamp = 1;
  block.shared_bytes = l.shared_bytes;
  const size_t bytes = static_cast<size_t>(l.shared_bytes), granules = (bytes + kGranule - 1) / kGranule;
  block.memory.resize(bytes + 1024);
  for (size_t i = 0; i < block.memory.size(); i++) block.memory[i] = kGarbage[i % 2];
  block.shared = block.memory.data() + (1024 - reinterpret_cast<uintptr_t>(block.memory.data()) % 1024) % 1024;
  block.writes.assign(granules, {});
  block.reads.assign(granules * static_cast<size_t>(block.warp_count), {});
  block.warps.assign(static_cast<size_t>(block.warp_count), {});
  for (Warp& warp : block.warps) warp.knowledge.assign(static_cast<size_t>(l.threads) + 1, 0);
  block.threads.assign(static_cast<size_t>(l.threads), {});
  for (Barrier& barrier : block.barriers) barrier = {};
  block.copy_barriers.clear();
  block.bulk_copies.clear();
  block.fenced.assign(static_cast<size_t>(l.threads) + 1, 0);
  std::vector<Thread*> threads;
  for (int i = 0; i < l.threads; i++) {
    Thread& thread = block.threads[i];
    thread.block = &block;
    thread.index = i;
    thread.warp = i / kLanes;
    thread.lane = i % kLanes;
    thread.knowledge = block.warps[thread.warp].knowledge.data();
    thread.context = launch->fibres[static_cast<size_t>(slot * l.threads + i)].get();
    start_fibre(*static_cast<Fibre*>(thread.context), run_thread);
    threads.push_back(&thread);
  }
  advance(block, threads);
  make_runnable(in_order(threads));
}

std::string who_waits() {
  std::string result = "no thread can go on:";
  for (const auto& block : launch->resident) {
    for (size_t i = 0; i < block->threads.size();) {
      const Thread& first = block->threads[i];
      size_t end = i + 1;
      while (end < block->threads.size() && block->threads[end].waiting_for == first.waiting_for &&
             block->threads[end].waiting_at.line() == first.waiting_at.line()) {
        end++;
      }
      if (first.waiting_for) {
        result += " block " + std::to_string(block->index) + " threads " + std::to_string(i) + " to " +
                  std::to_string(end - 1) + " wait at " + first.waiting_for + " (" + text(first.waiting_at) + ");";
      }
      i = end;
    }
  }
  return result;
}

void run_blocks() {
  const Launch& l = *launch;
  int started = 0;
  const auto next_index = [&] {
    const int index = started++;
    return l.schedule.order == kReverse ? l.blocks - 1 - index : index;
  };
  const int slots = static_cast<int>(l.resident.size());
  for (int slot = 0; slot < slots; slot++) start_block(*l.resident[slot], slot, next_index());
  for (int ended = 0; ended < l.blocks;) {
    Thread* next = take_next();
    if (!next) {
      launch->message = who_waits();
      launch->failed = true;
      return;
    }
    launch->finished = nullptr;
    resume(launch->scheduler, next);
    if (launch->failed) return;
    if (launch->finished) {
      ended++;
      for (int slot = 0; slot < slots; slot++) {
        if (l.resident[slot].get() == launch->finished && started < l.blocks) {
          start_block(*l.resident[slot], slot, next_index());
        }
      }
    }
  }
}

// ---- faults of the processor

std::string describe(const volatile void* address) {
  const uintptr_t place = reinterpret_cast<uintptr_t>(address);
  const std::string buffer = describe_buffer(address);
  if (!buffer.empty()) return buffer;
  for (const auto& fibre : launch->fibres) {
    if (is_stack_guard(*fibre, address)) return "the guard page of a fibre's stack (too many local variables)";
  }
  char number[32];
  std::snprintf(number, sizeof number, "address %#llx", static_cast<unsigned long long>(place));
  return number;
}

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
struct sigaction previous_actions[std::size(kSignals)];
std::once_flag handlers_installed;

void on_signal(int signal, siginfo_t* info, void* context) {
  if (launch) {
    launch->trap_signal = signal;
    launch->trap_address = info->si_addr;
    siglongjmp(launch->trap, 1);
  }
  for (size_t i = 0; i < std::size(kSignals); i++) {
    const struct sigaction& previous = previous_actions[i];
    if (kSignals[i] != signal) continue;
    if (previous.sa_flags & SA_SIGINFO) {
      previous.sa_sigaction(signal, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
      previous.sa_handler(signal);
    } else {
      sigaction(signal, &previous, nullptr);  // happens again, and then without us
    }
  }
}

void install_handlers() {
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < std::size(kSignals); i++) sigaction(kSignals[i], &action, &previous_actions[i]);
}

// The fault may be that the fibre's stack is full, so the handler has its own.
struct SignalStack {
  static constexpr size_t kBytes = 64 * 1024;
  std::unique_ptr<unsigned char[]> memory{new unsigned char[kBytes]};
  stack_t previous = {};

  SignalStack() {
    stack_t stack = {};
    stack.ss_sp = memory.get();
    stack.ss_size = kBytes;
    sigaltstack(&stack, &previous);
  }
  ~SignalStack() { sigaltstack(&previous, nullptr); }
};

void run_trapped() {
  if (sigsetjmp(launch->trap, 1) == 0) {
    run_blocks();
    return;
  }
  launch->failed = true;
  launch->message = name(*current) + ": ";
  if (launch->trap_signal == SIGSEGV || launch->trap_signal == SIGBUS) {
    launch->message += "access out of bounds: " + describe(launch->trap_address);
  } else {
    launch->message += "undefined behaviour of C++ (misaligned access, overflow, shift or division)";
  }
}

}  // namespace

void emulate_call(const Schedule& schedule, int blocks, int threads, int shared_bytes, const Call& kernel,
                  bool is_early) {
  if (launch) throw std::runtime_error("a launch within a launch");
  if (blocks < 1) throw std::runtime_error("a launch needs at least one block");
  if (threads < kLanes || threads > 1024 || threads % kLanes != 0) {
    throw std::runtime_error("a block must have whole warps and at most 1024 threads");
  }
  std::call_once(handlers_installed, install_handlers);
  Launch now = {};
  now.schedule = schedule;
  now.blocks = blocks;
  now.threads = threads;
  now.shared_bytes = shared_bytes;
  now.kernel = &kernel;
  now.is_early = is_early;
  now.random = schedule.seed * 0x9e3779b97f4a7c15u | 1;
  const int slots = std::clamp(static_cast<int>(schedule.resident_blocks), 1, blocks);
  now.fibres = std::move(idle_fibres);
  while (now.fibres.size() < static_cast<size_t>(slots * threads)) now.fibres.push_back(make_fibre());
  for (int slot = 0; slot < slots; slot++) now.resident.push_back(std::make_unique<Block>());
  launch = &now;
  {
    const SignalStack stack;
    run_trapped();
  }
  launch = nullptr;
  current = nullptr;
  idle_fibres = std::move(now.fibres);
  if (now.failed) throw std::runtime_error(now.message);
}

const char* message_of_call(const Call& work) {
  static thread_local std::string message;
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

void fault(Where where, const char* format, ...) {
  char text_of_fault[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text_of_fault, sizeof text_of_fault, format, arguments);
  va_end(arguments);
  launch->message = name(*current) + " at " + text(where) + ": " + text_of_fault;
  launch->failed = true;
  switch_fibre(*static_cast<Fibre*>(current->context), launch->scheduler);
  __builtin_unreachable();
}

int block_count() { return launch->blocks; }

void yield() {
  launch->runnable.push_back(current);
  reschedule();
}

void yield_at_store() {
  if (launch->schedule.order == kRandom && launch->next_random() % 32 == 0) yield();
}

void wait_for_launch_before() { current->has_waited = true; }

void expect_launch_before(Where where) {
  if (launch->is_early && !current->has_waited) fault(where, "before the wait for the launch before");
}

void fresh_load(Where where) {
  expect_launch_before(where);
  if (++current->fresh_loads > kMostFreshLoads) fault(where, "a loop around load_fresh does not end");
  yield();
}

// ---- barriers and warps

void wait_at_barrier(int id, int threads, Where where) {
  Block& block = *current->block;
  Barrier& barrier = block.barriers[id];
  const int expected = id == 0 ? block.thread_count - block.ended : threads;
  if (!barrier.waiting.empty()) {
    if (id == 0 && (barrier.where.line() != where.line() || barrier.where.column() != where.column())) {
      fault(where, "threads of one block are at different block barriers; others wait at %s",
            text(barrier.where).c_str());
    }
    if (id != 0 && barrier.expected != threads) {
      fault(where, "named_barrier %d of %d threads, but others wait there for %d", id, threads, barrier.expected);
    }
  }
  if (expected > block.thread_count) fault(where, "named_barrier %d: the block has not %d threads", id, threads);
  barrier.where = where;
  barrier.expected = expected;
  barrier.waiting.push_back(current);
  current->waiting_for = id == 0 ? "block_barrier" : "named_barrier";
  current->waiting_at = where;
  if (static_cast<int>(barrier.waiting.size()) == expected) open_barrier(block, barrier);
  reschedule();
}

bool meet_warp(const char* collective, Where where) {
  Warp& warp = current_warp();
  Block& block = *current->block;
  if (warp.arrived == 0) {
    warp.collective = collective;
    warp.where = where;
    for (int i = 0; i < kLanes; i++) {
      const Thread& other = block.threads[current->warp * kLanes + i];
      if (other.ended) fault(where, "lane %d of this warp has ended and cannot come to this %s", i, collective);
    }
  } else if (warp.where.line() != where.line() || warp.where.column() != where.column() ||
             std::strcmp(warp.where.file_name(), where.file_name()) != 0) {
    fault(where, "lanes of one warp have diverged: this one is at %s, others are at %s (%s)", collective,
          warp.collective, text(warp.where).c_str());
  }
  warp.arrived |= 1u << current->lane;
  if (warp.arrived == 0xffffffffu) return true;
  wait(collective, where);
  return false;
}

void leave_warp() {
  Warp& warp = current_warp();
  Block& block = *current->block;
  std::vector<Thread*> threads;
  for (int i = 0; i < kLanes; i++) {
    Thread& thread = block.threads[current->warp * kLanes + i];
    if (thread.knowledge == thread.own_knowledge.data()) join(warp.knowledge, thread.knowledge);
    thread.knowledge = warp.knowledge.data();
    threads.push_back(&thread);
  }
  for (Thread* thread : threads) warp.knowledge[thread->index] = thread->stamp;
  warp.arrived = 0;
  advance(block, threads);
  make_runnable(in_order(threads));
  reschedule();
}

}  // namespace patchswap::emulation
