#include "parallel/machine_profile.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::parallel {
namespace {

// Of a profile or a constant one.
template <typename Profile, typename Pointer>
std::vector<std::pair<std::string, Pointer>> curves_of(Profile& machine) {
  std::vector<std::pair<std::string, Pointer>> curves = {{"read_bandwidth", &machine.read_bandwidth},
                                                         {"row_bandwidth", &machine.row_bandwidth}};
  for (size_t kind = 0; kind < kNumProductKinds; ++kind)
    curves.emplace_back(fmt::format("products.{}", name_of(static_cast<ProductKind>(kind))),
                        &machine.products[kind]);
  curves.emplace_back("chunk_sums", &machine.chunk_sums);
  curves.emplace_back("attention", &machine.attention);
  curves.emplace_back("sampling", &machine.sampling);
  curves.emplace_back("op_overhead", &machine.op_overhead);
  curves.emplace_back("step_overhead", &machine.step_overhead);
  curves.emplace_back("row_overhead", &machine.row_overhead);
  const auto add = [&](std::string_view field, auto& costs) {
    for (size_t kind = 0; kind < kNumCollectiveKinds; ++kind) {
      const std::string name = fmt::format("{}.{}", field, name_of(static_cast<CollectiveKind>(kind)));
      curves.emplace_back(name + ".latency", &costs[kind].latency);
      curves.emplace_back(name + ".bytes_per_second", &costs[kind].bytes_per_second);
    }
  };
  add("within", machine.within);
  if (machine.has_links_between_nodes()) add("across", machine.across);
  return curves;
}

void check_curve(const std::string& name, const Curve& curve) {
  if (curve.points.empty()) throw_error("{}: expected at least one point, found none", name);
  if (curve.source.empty()) throw_error("{}: expected a source, found none", name);
  double last = 0;
  for (const auto& [x, y] : curve.points) {
    if (!std::isfinite(x) || !std::isfinite(y) || y <= 0)
      throw_error("{}: expected numbers above 0, found {} at {}", name, y, x);
    if (x <= last)
      throw_error("{}: expected points that ascend from above 0, found {} after {}", name, x, last);
    last = x;
  }
}

}  // namespace

std::string_view name_of(ProductKind kind) {
  switch (kind) {
    case ProductKind::plain:
      return "plain";
    case ProductKind::gated:
      return "gated";
    case ProductKind::order_free:
      return "order_free";
  }
  return "?";
}

std::string_view name_of(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::all_gather:
      return "all_gather";
    case CollectiveKind::reduce_scatter:
      return "reduce_scatter";
    case CollectiveKind::all_to_all:
      return "all_to_all";
    case CollectiveKind::gather:
      return "gather";
  }
  return "?";
}

double Curve::at(double x) const {
  if (points.empty()) return 0;
  if (x <= points.front().first) return points.front().second;
  const auto above = std::find_if(points.begin(), points.end(), [&](const auto& p) { return p.first >= x; });
  if (above == points.end()) return points.back().second;
  const auto& [x1, y1] = *above;
  const auto& [x0, y0] = *std::prev(above);
  const double part = std::log(x / x0) / std::log(x1 / x0);
  return y0 * std::pow(y1 / y0, part);
}

std::vector<std::pair<std::string, const Curve*>> named_curves(const MachineProfile& machine) {
  return curves_of<const MachineProfile, const Curve*>(machine);
}

std::vector<std::pair<std::string, Curve*>> named_curves(MachineProfile& machine) {
  return curves_of<MachineProfile, Curve*>(machine);
}

void check_profile(const MachineProfile& machine) {
  if (machine.kind != "cpu" && machine.kind != "cuda")
    throw_error("kind: expected cpu or cuda, found \"{}\"", machine.kind);
  if (machine.cores < 1) throw_error("cores: expected a number from 1 on, found {}", machine.cores);
  if (machine.devices < 1) throw_error("devices: expected a number from 1 on, found {}", machine.devices);
  for (const auto& [name, curve] : named_curves(machine)) check_curve(name, *curve);
}

}  // namespace chorale::parallel
