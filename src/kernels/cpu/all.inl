// Every CPU kernel, for the instruction set that the including file names in CHORALE_ISA.
//
// That file is one translation unit and has one instruction set, so `#pragma once` in a .inl file means once
// for each. A .inl file includes what it uses, but no header whose inline functions are no namespace's of an
// instruction set: see cpu_kernels.h.
#include "kernels/cpu/adam.inl"
#include "kernels/cpu/attention.inl"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/expert_matmul.inl"
#include "kernels/cpu/gated_activation.inl"
#include "kernels/cpu/gemm.inl"
#include "kernels/cpu/interleave.inl"
#include "kernels/cpu/matmul.inl"
#include "kernels/cpu/norm.inl"
#include "kernels/cpu/norm_backward.inl"
#include "kernels/cpu/quantize.inl"
#include "kernels/cpu/softmax.inl"

namespace chorale::CHORALE_ISA {

extern const cpu::CpuKernels kKernels;
const cpu::CpuKernels kKernels{.matmul = matmul,
                               .gated_matmul = gated_matmul,
                               .order_free_matmul = order_free_matmul,
                               .interleave = interleave,
                               .quantize_rows = quantize_rows,
                               .rms_norm = rms_norm,
                               .norm_rope = norm_rope,
                               .append_kv = append_kv,
                               .attention = attention,
                               .pack_rhs = pack_rhs,
                               .gemm = gemm,
                               .gated_activation = gated_activation,
                               .gated_activation_backward = gated_activation_backward,
                               .softmax_rows = softmax_rows,
                               .rms_norm_backward = rms_norm_backward,
                               .adam_step = adam_step};

}  // namespace chorale::CHORALE_ISA
