#include "tools/prune/normal_equations.h"

#include <algorithm>
#include <numeric>

#include <Eigen/Dense>

#include "base/error.h"

namespace chorale::tools {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using View = Eigen::Map<const Matrix>;

constexpr int64_t kFeaturesPerRound = 16;
// Below this part of the mean, what is orthogonal to the chosen features is rounding error.
constexpr double kLeastRemainder = 1e-9;

View gram_of(const NormalEquations& e) {
  return {e.gram.data(), e.features, e.features};
}
View cross_of(const NormalEquations& e) {
  return {e.cross.data(), e.features, e.outputs};
}

// What is added to the diagonal. A model whose activations are all zero still has a solution.
double absolute_ridge(const NormalEquations& e, double ridge) {
  const double mean = gram_of(e).diagonal().mean();
  return std::max(ridge * mean, 1e-30);
}

// The indices of the `count` largest scores, largest first; taken ones have negative scores.
std::vector<int32_t> best(const Eigen::VectorXd& scores, int64_t count) {
  std::vector<int32_t> order(static_cast<size_t>(scores.size()));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  order.resize(static_cast<size_t>(count));
  return order;
}

}  // namespace

NormalEquations restrict_to(const NormalEquations& equations, const std::vector<int32_t>& features) {
  NormalEquations result(static_cast<int64_t>(features.size()), equations.outputs);
  const View gram = gram_of(equations);
  const View cross = cross_of(equations);
  Eigen::Map<Matrix> to_gram(result.gram.data(), result.features, result.features);
  Eigen::Map<Matrix> to_cross(result.cross.data(), result.features, result.outputs);
  for (int64_t i = 0; i < result.features; ++i) {
    const int32_t from = features[static_cast<size_t>(i)];
    to_cross.row(i) = cross.row(from);
    for (int64_t j = 0; j < result.features; ++j)
      to_gram(i, j) = gram(from, features[static_cast<size_t>(j)]);
  }
  return result;
}

std::vector<double> solve_ridge(const NormalEquations& equations, double ridge) {
  Matrix gram = gram_of(equations);
  gram.diagonal().array() += absolute_ridge(equations, ridge);
  const Eigen::LLT<Matrix> factor(gram);
  if (factor.info() != Eigen::Success) throw_error("the calibration's activations are not finite");
  std::vector<double> weights(equations.cross.size());
  Eigen::Map<Matrix>(weights.data(), equations.features, equations.outputs) =
      factor.solve(cross_of(equations));
  return weights;
}

std::vector<int32_t> select_features(const NormalEquations& equations, int64_t count, double ridge) {
  CHORALE_CHECK(count >= 1 && count <= equations.features, "{} of {} features", count, equations.features);
  const View gram = gram_of(equations);
  const double added = absolute_ridge(equations, ridge);
  // With L the Cholesky factor of the chosen features' Gram matrix: whitened = L^-1 gram[chosen, :], and
  // explained = L^-1 cross[chosen, :]. They grow by some rows a round.
  Matrix whitened(count, equations.features);
  Matrix explained(count, equations.outputs);
  Matrix left = cross_of(equations);  // what each feature would still explain, times its norm
  Eigen::VectorXd remainder = gram.diagonal().array() + added;  // squared norm orthogonal to the chosen ones
  const double least = std::max(kLeastRemainder * remainder.mean(), 1e-300);

  std::vector<int32_t> chosen;
  for (int64_t done = 0; done < count;) {
    Eigen::VectorXd scores = left.rowwise().squaredNorm().array() / remainder.array().max(least);
    for (const int32_t i : chosen) scores[i] = -1;
    const int64_t n = std::min(kFeaturesPerRound, count - done);
    const std::vector<int32_t> added_now = best(scores, n);
    Matrix rows(n, equations.features);
    Matrix targets(n, equations.outputs);
    Matrix before(n, done);  // whitened[:, added_now]^T
    for (int64_t i = 0; i < n; ++i) {
      const int32_t feature = added_now[static_cast<size_t>(i)];
      rows.row(i) = gram.row(feature);
      rows(i, feature) += added;
      targets.row(i) = cross_of(equations).row(feature);
      before.row(i) = whitened.col(feature).head(done).transpose();
    }
    rows.noalias() -= before * whitened.topRows(done);
    targets.noalias() -= before * explained.topRows(done);
    Matrix block(n, n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) block(i, j) = rows(i, added_now[static_cast<size_t>(j)]);
    }
    Eigen::LLT<Matrix> factor(block);
    // Copies of one feature in a round leave nothing but rounding errors of each other.
    for (double more = added; factor.info() != Eigen::Success; more *= 10) {
      if (!(more < 1e300)) throw_error("the calibration's activations are not finite");
      block.diagonal().array() += more;
      factor.compute(block);
    }
    factor.matrixL().solveInPlace(rows);
    factor.matrixL().solveInPlace(targets);
    left.noalias() -= rows.transpose() * targets;
    remainder -= rows.colwise().squaredNorm().transpose();
    whitened.middleRows(done, n) = rows;
    explained.middleRows(done, n) = targets;
    chosen.insert(chosen.end(), added_now.begin(), added_now.end());
    done += n;
  }
  return chosen;
}

}  // namespace chorale::tools
