#include "base/instruction_set.h"

#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/error.h"

namespace chorale {
namespace {

constexpr InstructionSet kAll[] = {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512,
                                   InstructionSet::avx512_bf16};

#if defined(__x86_64__)
// Conversions of float16, whose name clang 14 does not know in __builtin_cpu_supports.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool is_available(InstructionSet isa) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  switch (isa) {
    case InstructionSet::portable:
      return true;
    case InstructionSet::avx2:
      return avx2;
    case InstructionSet::avx512:
      return avx512;
    case InstructionSet::avx512_bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  }
  return false;
}
#else
bool is_available(InstructionSet isa) {
  return isa == InstructionSet::portable;
}
#endif

}  // namespace

std::string_view name_of(InstructionSet isa) {
  switch (isa) {
    case InstructionSet::portable:
      return "portable";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx512_bf16:
      return "avx512_bf16";
  }
  return "?";
}

std::vector<InstructionSet> available_instruction_sets() {
  std::vector<InstructionSet> found;
  for (InstructionSet isa : kAll)
    if (is_available(isa)) found.push_back(isa);
  return found;
}

InstructionSet select_instruction_set(std::string_view name) {
  if (name == "auto") return available_instruction_sets().back();
  for (InstructionSet isa : kAll) {
    if (name != name_of(isa)) continue;
    if (is_available(isa)) return isa;
    throw_error("--instruction-set: this processor does not have {}; \"auto\" would choose {}", name,
                name_of(available_instruction_sets().back()));
  }
  throw_error("--instruction-set: expected auto, portable, avx2, avx512 or avx512_bf16, found \"{}\"", name);
}

}  // namespace chorale
