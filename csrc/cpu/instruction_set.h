// Which instructions the machine has.
#pragma once

namespace patchswap {

enum class InstructionSet { kGeneric, kAvx2, kAvx512, kAvx512Vnni };

// The best that this machine has, at most what the environment variable PATCHSWAP_CPU_KERNEL names: by it tests reach
// every kernel. Chosen once per process.
InstructionSet instruction_set();

}  // namespace patchswap
