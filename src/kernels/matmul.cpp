#include "kernels/matmul.h"

#include <array>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/weight.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void matmul(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets) {
  OpScope scope(stream.profile(), "matmul");
  std::array<cpu::MatmulOut, kMaxMatmulTargets> outs;
  CHORALE_CHECK(!targets.empty() && targets.size() <= outs.size(), "{} targets", targets.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    const MatmulTarget& t = targets[i];
    const PackedLayout& layout = t.weight.layout;
    CHORALE_CHECK(
        layout.format == targets[0].weight.layout.format && layout.k_chunks == 1 && !layout.fused_pair,
        "[{}, {}] in {} chunks", layout.n, layout.k, layout.k_chunks);
    check_input(x, layout);
    check_matrix(t.out, DType::f32, x.rows(), layout.n, "out");
    if (!t.bias.empty()) check_vector(t.bias, DType::f32, layout.n, "bias");
    outs[i] = {.weight = cpu::to_weight(layout, t.weight.data),
               .bias = t.bias.empty() ? nullptr : t.bias.data<float>(),
               .out = t.out.data<float>(),
               .out_stride = t.out.row_stride()};
    if (scope.is_recording()) {
      scope.add_work(static_cast<double>(layout.bytes()),
                     2.0 * static_cast<double>(x.rows() * layout.n * layout.k));
    }
  }
  if (x.empty()) return;
  const cpu::MatmulArgs args{.format = targets[0].weight.layout.format,
                             .x = {cpu::bytes_of(x), cpu::stride_bytes(x), nullptr},
                             .m = x.rows(),
                             .targets = outs.data(),
                             .num_targets = static_cast<int64_t>(targets.size())};
  cpu::kernels_for(stream.instruction_set()).matmul(stream.pool(), args);
}

}  // namespace chorale
