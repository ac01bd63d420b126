#include "kernels/adam.h"

#include "kernels/cpu/ops.h"
#include "kernels/tensor_checks.h"

namespace chorale {
void adam_step(const Stream& stream, const Tensor& parameters, const Tensor& gradient,
               const Tensor& first_moment, const Tensor& second_moment, const AdamOptions& options) {
  const int64_t rows = parameters.rows();
  const int64_t columns = parameters.columns();
  CHORALE_CHECK(parameters.dtype() == DType::f32, "parameters are {}", name_of(parameters.dtype()));
  check_matrix(gradient, DType::f32, rows, columns, "gradient");
  check_matrix(first_moment, DType::f32, rows, columns, "first_moment");
  check_matrix(second_moment, DType::f32, rows, columns, "second_moment");
  CHORALE_CHECK(options.step >= 1, "step {}", options.step);
  if (parameters.empty()) return;
  cpu::adam_step(stream, parameters, gradient, first_moment, second_moment, options);
}

}  // namespace chorale
