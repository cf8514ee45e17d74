// Fibres: stacks that take turns on one CPU thread. A switch saves the registers that a function call must keep, by a
// few instructions on x86-64 and by ucontext (two system calls per switch, so slower) elsewhere.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#if !defined(__x86_64__) || defined(PATCHSWAP_UCONTEXT)
#define PATCHSWAP_PORTABLE_FIBRES
#include <ucontext.h>
#endif

namespace patchswap::emulation {

constexpr size_t kStackBytes = 128 * 1024;

// One side of a switch; without a stack of its own it stands for the CPU thread's.
struct Fibre {
  unsigned char* mapping = nullptr;  // guard page, then the stack
#if defined(PATCHSWAP_PORTABLE_FIBRES)
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif

  Fibre() = default;
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;
  ~Fibre() {
    if (mapping) munmap(mapping, kStackBytes + guard_bytes());
  }
  static size_t guard_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }
};

inline std::unique_ptr<Fibre> make_fibre() {
  auto fibre = std::make_unique<Fibre>();
  const size_t guard = Fibre::guard_bytes();
  void* mapping = mmap(nullptr, kStackBytes + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping, guard, PROT_NONE) != 0) throw std::bad_alloc();
  fibre->mapping = static_cast<unsigned char*>(mapping);
  return fibre;
}

inline bool is_stack_guard(const Fibre& fibre, const volatile void* address) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(fibre.mapping), place = reinterpret_cast<uintptr_t>(address);
  return place >= begin && place < begin + Fibre::guard_bytes();
}

#if defined(PATCHSWAP_PORTABLE_FIBRES)

// The fibre's next turn begins with entry(), which must not return.
inline void start_fibre(Fibre& fibre, void (*entry)()) {
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.mapping + Fibre::guard_bytes();
  fibre.context.uc_stack.ss_size = kStackBytes;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, entry, 0);
}

inline void switch_fibre(Fibre& from, Fibre& to) { swapcontext(&from.context, &to.context); }

#else

extern "C" void patchswap_switch_stack(void** save, void* load) __attribute__((visibility("hidden")));

inline void start_fibre(Fibre& fibre, void (*entry)()) {
  void** top = reinterpret_cast<void**>(fibre.mapping + Fibre::guard_bytes() + kStackBytes);
  *--top = nullptr;  // where entry() would return to; the stack is aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fibre.stack_pointer = top;
}

inline void switch_fibre(Fibre& from, Fibre& to) { patchswap_switch_stack(&from.stack_pointer, to.stack_pointer); }

asm(R"(
.text
.weak patchswap_switch_stack
.hidden patchswap_switch_stack
.type patchswap_switch_stack, @function
patchswap_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size patchswap_switch_stack, .-patchswap_switch_stack
)");

#endif

}  // namespace patchswap::emulation
