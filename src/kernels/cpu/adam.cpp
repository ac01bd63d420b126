// adam.h on the CPU; adam.inl has its kernel.
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/float_matrix.h"
#include "kernels/cpu/ops.h"

namespace chorale::cpu {
namespace {

// What is left of a moment's bias towards zero after `step` steps.
double bias_correction(float beta, int64_t step) {
  return 1 - std::pow(double{beta}, static_cast<double>(step));
}

}  // namespace

void adam_step(const Stream& stream, const Tensor& parameters, const Tensor& gradient,
               const Tensor& first_moment, const Tensor& second_moment, const AdamOptions& options) {
  const double first_correction = bias_correction(options.beta1, options.step);
  const double second_correction = bias_correction(options.beta2, options.step);
  const AdamArgs args{.rows = parameters.rows(),
                      .columns = parameters.columns(),
                      .parameters = to_float_matrix(parameters),
                      .gradient = to_float_matrix(gradient),
                      .first_moment = to_float_matrix(first_moment),
                      .second_moment = to_float_matrix(second_moment),
                      .beta1 = options.beta1,
                      .beta2 = options.beta2,
                      .epsilon = options.epsilon,
                      .step_size = static_cast<float>(double{options.learning_rate} / first_correction),
                      .second_scale = static_cast<float>(1 / second_correction)};
  kernels_for(stream.instruction_set()).adam_step(stream.pool(), args);
}

}  // namespace chorale::cpu
