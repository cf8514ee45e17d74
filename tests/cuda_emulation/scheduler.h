// What the parts of the emulator share and kernels do not see: the launch under way and how threads wait and go on.
#pragma once

#include <setjmp.h>

#include <deque>
#include <memory>
#include <string>

#include "emulator.h"
#include "fibre.h"

namespace patchswap::emulation {

constexpr unsigned char kGarbage[2] = {0xa5, 0x7f};  // NaN as halves and floats, huge as integers

struct Launch {
  Schedule schedule;
  int blocks, threads, shared_bytes;
  const Call* kernel;
  bool is_early;
  std::deque<Thread*> runnable;
  std::vector<std::unique_ptr<Block>> resident;
  std::vector<std::unique_ptr<Fibre>> fibres;
  Fibre scheduler;
  Block* finished;  // a block whose last thread has just ended
  uint64_t random;
  std::string message;
  bool failed;
  sigjmp_buf trap;
  const volatile void* trap_address;
  int trap_signal;

  uint64_t next_random() {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random;
  }
};

extern thread_local Launch* launch __attribute__((tls_model("initial-exec")));

// The current thread stops here until it is made runnable. The text goes into the report of a deadlock.
void wait(const char* what, Where where);
void make_runnable(const std::vector<Thread*>& threads);
// The threads, in the order of the schedule.
std::vector<Thread*> in_order(std::vector<Thread*> threads);

// Whether an asynchronous effect comes at once, as the schedule has it.
bool arrives_at_once();
// Lets one of the bulk copies under way arrive, in random order where the schedule is random; false if there is none.
bool finish_a_bulk_copy();

// Knowledge of both.
void join(std::vector<uint32_t>& knowledge, const uint32_t* other);

// Which byte of which guarded buffer an address is; empty where it is in none.
std::string describe_buffer(const volatile void* address);

}  // namespace patchswap::emulation
