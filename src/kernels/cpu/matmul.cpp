// matmul.h on the CPU; matmul.inl has its kernel.
#include <array>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/weight.h"

namespace chorale::cpu {

void matmul(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets) {
  std::array<MatmulOut, kMaxMatmulTargets> outs;
  for (size_t i = 0; i < targets.size(); ++i) {
    const MatmulTarget& t = targets[i];
    outs[i] = {.weight = to_weight(t.weight.layout, t.weight.data),
               .bias = t.bias.empty() ? nullptr : t.bias.data<float>(),
               .out = t.out.data<float>(),
               .out_stride = t.out.row_stride()};
  }
  const MatmulArgs args{.format = targets[0].weight.layout.format,
                        .x = {bytes_of(x), stride_bytes(x), nullptr},
                        .m = x.rows(),
                        .targets = outs.data(),
                        .num_targets = static_cast<int64_t>(targets.size())};
  kernels_for(stream.instruction_set()).matmul(stream.pool(), args);
}

}  // namespace chorale::cpu
