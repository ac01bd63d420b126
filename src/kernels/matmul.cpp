#include "kernels/matmul.h"

#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void matmul(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets) {
  OpScope scope(stream.profile(), "matmul");
  CHORALE_CHECK(!targets.empty() && targets.size() <= kMaxMatmulTargets, "{} targets", targets.size());
  for (const MatmulTarget& t : targets) {
    const WeightLayout& layout = t.weight.layout;
    CHORALE_CHECK(
        layout.format == targets[0].weight.layout.format && layout.k_chunks == 1 && !layout.fused_pair,
        "[{}, {}] in {} chunks", layout.n, layout.k, layout.k_chunks);
    check_input(x, layout);
    check_matrix(t.out, DType::f32, x.rows(), layout.n, "out");
    if (!t.bias.empty()) check_vector(t.bias, DType::f32, layout.n, "bias");
    if (scope.is_recording()) {
      scope.add_work(static_cast<double>(backend_of(stream).weight_bytes(layout)),
                     2.0 * static_cast<double>(x.rows() * layout.n * layout.k));
    }
  }
  if (x.empty()) return;
  backend_of(stream).matmul(stream, x, targets);
}

}  // namespace chorale
