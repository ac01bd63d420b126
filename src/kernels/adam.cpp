#include "kernels/adam.h"

#include <cmath>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/float_matrix.h"
#include "kernels/tensor_checks.h"

namespace chorale {
namespace {

// What is left of a moment's bias towards zero after `step` steps.
double bias_correction(float beta, int64_t step) {
  return 1 - std::pow(double{beta}, static_cast<double>(step));
}

}  // namespace

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
  const double first_correction = bias_correction(options.beta1, options.step);
  const double second_correction = bias_correction(options.beta2, options.step);
  const cpu::AdamArgs args{.rows = rows,
                           .columns = columns,
                           .parameters = cpu::to_float_matrix(parameters),
                           .gradient = cpu::to_float_matrix(gradient),
                           .first_moment = cpu::to_float_matrix(first_moment),
                           .second_moment = cpu::to_float_matrix(second_moment),
                           .beta1 = options.beta1,
                           .beta2 = options.beta2,
                           .epsilon = options.epsilon,
                           .step_size = static_cast<float>(double{options.learning_rate} / first_correction),
                           .second_scale = static_cast<float>(1 / second_correction)};
  cpu::kernels_for(stream.instruction_set()).adam_step(stream.pool(), args);
}

}  // namespace chorale
