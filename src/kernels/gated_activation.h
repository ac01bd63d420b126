// The gate of an MLP and its gradient, for fitting weights; expert_matmul.h has the gate fused with its two
// matrix products.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"

namespace chorale {

// out = silu(gate) * up. All float32 [M, I]; out may be the memory of gate or of up.
void gated_activation(const Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& out);

// The gradients with respect to gate and up, given d_out, the gradient with respect to the output:
//   d_up = d_out * silu(gate)
//   d_gate = d_out * up * (sigmoid(gate) + silu(gate) * (1 - sigmoid(gate)))
// All float32 [M, I]. d_gate and d_up may each be the memory of gate, up or d_out, but not both the same.
void gated_activation_backward(const Stream& stream, const Tensor& gate, const Tensor& up,
                               const Tensor& d_out, const Tensor& d_gate, const Tensor& d_up);

}  // namespace chorale
