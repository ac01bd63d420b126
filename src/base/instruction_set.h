// Which vector instructions the CPU kernels use. Chosen once at start and reported; results are the same bits
// for one instruction set whatever the batch, the threads or the ranks, and may differ between instruction
// sets.
#pragma once

#include <string_view>
#include <vector>

namespace chorale {

enum class InstructionSet { portable, avx2, avx512, avx512_bf16 };

std::string_view name_of(InstructionSet isa);

// Those this processor and operating system can run, from the least to the most capable.
std::vector<InstructionSet> available_instruction_sets();

// "auto" picks the most capable one available; a name that is unknown or not available throws Error naming
// the flag.
InstructionSet select_instruction_set(std::string_view name);

}  // namespace chorale
