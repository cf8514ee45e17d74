#include "instruction_set.h"

#include <cstdlib>
#include <string_view>

#include "../ops.h"

namespace patchswap {
namespace {

constexpr const char* kNames[] = {"generic", "avx2", "avx512", "avx512vnni"};

InstructionSet find_instruction_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  const char* variable = std::getenv("PATCHSWAP_CPU_KERNEL");
  const std::string_view limit = variable ? variable : "";
  if (avx512 && limit != "avx2" && limit != "generic") {
    const bool vnni = __builtin_cpu_supports("avx512vnni") && limit != "avx512";
    return vnni ? InstructionSet::kAvx512Vnni : InstructionSet::kAvx512;
  }
  if (avx2 && limit != "generic") return InstructionSet::kAvx2;
#endif
  return InstructionSet::kGeneric;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet found = find_instruction_set();
  return found;
}

const char* cpu_kernel_name() { return kNames[static_cast<int>(instruction_set())]; }

}  // namespace patchswap
