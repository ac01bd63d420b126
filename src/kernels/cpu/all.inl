// Every CPU kernel, for the instruction set that the including file names in CHORALE_ISA.
#include <type_traits>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vec_int.h"

namespace chorale::CHORALE_ISA {
namespace {

// Products of some rows and panels in registers.
#include "kernels/cpu/tile.inl"
// Those of quantized formats.
#include "kernels/cpu/quantized_tile.inl"
// And of whole strips.
#include "kernels/cpu/strip.inl"
// The ops, one file each.
#include "kernels/cpu/attention.inl"
#include "kernels/cpu/expert_matmul.inl"
#include "kernels/cpu/interleave.inl"
#include "kernels/cpu/matmul.inl"
#include "kernels/cpu/norm.inl"
#include "kernels/cpu/quantize.inl"
// How ops walk over rows.
#include "kernels/cpu/row_walk.inl"
// The ops of fitting weights, one file each.
#include "kernels/cpu/adam.inl"
#include "kernels/cpu/gated_activation.inl"
#include "kernels/cpu/gemm.inl"
#include "kernels/cpu/norm_backward.inl"
#include "kernels/cpu/softmax.inl"

}  // namespace

extern const cpu::CpuKernels kKernels;
const cpu::CpuKernels kKernels{matmul,
                               gated_matmul,
                               order_free_matmul,
                               interleave,
                               quantize_rows,
                               rms_norm,
                               norm_rope,
                               append_kv,
                               attention,
                               pack_rhs,
                               gemm,
                               gated_activation,
                               gated_activation_backward,
                               softmax_rows,
                               rms_norm_backward,
                               adam_step};

}  // namespace chorale::CHORALE_ISA
