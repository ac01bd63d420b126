#include "kernels/cpu/cpu_kernels.h"

#include "base/error.h"

namespace chorale {

namespace isa_portable {
extern const cpu::CpuKernels kKernels;
}
#if defined(__x86_64__)
namespace isa_avx2 {
extern const cpu::CpuKernels kKernels;
}
namespace isa_avx512 {
extern const cpu::CpuKernels kKernels;
}
namespace isa_avx512_bf16 {
extern const cpu::CpuKernels kKernels;
}
#endif

namespace cpu {

const CpuKernels& kernels_for(InstructionSet isa) {
  switch (isa) {
    case InstructionSet::portable:
      return isa_portable::kKernels;
#if defined(__x86_64__)
    case InstructionSet::avx2:
      return isa_avx2::kKernels;
    case InstructionSet::avx512:
      return isa_avx512::kKernels;
    case InstructionSet::avx512_bf16:
      return isa_avx512_bf16::kKernels;
#else
    default:
      break;
#endif
  }
  CHORALE_CHECK(false, "no kernels for {}", name_of(isa));
  return isa_portable::kKernels;
}

}  // namespace cpu
}  // namespace chorale
