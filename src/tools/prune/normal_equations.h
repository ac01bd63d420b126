// Least squares over features of which only some may be used: which ones, and with what weights.
//
// The features of all tokens, Phi [M, F], and the targets T [M, O] enter through their normal equations
// alone, so that a text of any length takes F * (F + O) numbers. Pure functions; linear algebra by Eigen, in
// double precision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace chorale::tools {

struct NormalEquations {
  NormalEquations(int64_t num_features, int64_t num_outputs)
      : features(num_features),
        outputs(num_outputs),
        gram(static_cast<size_t>(num_features * num_features)),
        cross(static_cast<size_t>(num_features * num_outputs)) {}

  int64_t features, outputs;
  std::vector<double> gram;   // [F, F]: Phi^T Phi
  std::vector<double> cross;  // [F, O]: Phi^T T
};

// The normal equations of some of the features, in the order given.
NormalEquations restrict_to(const NormalEquations& equations, const std::vector<int32_t>& features);

// Ridge regression: the weights [F, O] that minimise |Phi w - T|^2 + ridge * mean(diag(gram)) * |w|^2.
std::vector<double> solve_ridge(const NormalEquations& equations, double ridge);

// `count` of the features, by orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993) with several
// features per round: those whose part orthogonal to the chosen ones explains most of what the chosen ones
// leave of the targets. Works on an incremental Cholesky factor of the Gram matrix: O(count^2 * F) in all. Of
// equal ones the lower index is chosen. 1 <= count <= F; the result is in the order of choice.
std::vector<int32_t> select_features(const NormalEquations& equations, int64_t count, double ridge);

}  // namespace chorale::tools
