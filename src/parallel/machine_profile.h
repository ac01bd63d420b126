// What one machine can do, as figures that a cost model computes with: bandwidths, products, collectives and
// overheads, each with the place that it comes from. A value; pure arithmetic. `chorale calibrate` measures
// one, and files of known machines ship in machines/.
//
// A machine is a set of equal nodes. On a node with kind "cpu" all ranks share the cores and the memory; on a
// node with kind "cuda" each rank has a device of its own, and the figures are one device's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace chorale::parallel {

// A figure that depends on another: points in ascending order of x, all numbers above 0.
struct Curve {
  std::vector<std::pair<double, double>> points;
  std::string source;  // where the figures come from

  // Between points linear in the logarithms of both; before the first and after the last the nearest one's. 0
  // for a curve without points.
  double at(double x) const;
  bool operator==(const Curve&) const = default;
};

// plain: q/k/v, the router and the head; gated: gate and up together; order_free: o and down, whose sums are
// in fixed point.
enum class ProductKind { plain, gated, order_free };
inline constexpr size_t kNumProductKinds = 3;
std::string_view name_of(ProductKind kind);

enum class CollectiveKind { all_gather, reduce_scatter, all_to_all, gather };
inline constexpr size_t kNumCollectiveKinds = 4;
std::string_view name_of(CollectiveKind kind);

// Of one group of ranks that all take part, by their number.
struct CollectiveCost {
  Curve latency;           // seconds of an operation that moves nothing
  Curve bytes_per_second;  // that one rank receives

  bool operator==(const CollectiveCost&) const = default;
};
using CollectiveCosts = std::array<CollectiveCost, kNumCollectiveKinds>;

struct MachineProfile {
  std::string name;  // "AMD EPYC, 2 cores"
  std::string kind = "cpu";
  std::string instruction_set;  // the CPU's; empty for other devices
  int cores = 1;                // of a node, which the ranks of a CPU share
  int devices = 1;              // of a node, other than the CPU
  uint64_t memory = 0;          // bytes: of a node's memory, or of one device's

  // Of the node's memory, or of one device's.
  Curve read_bandwidth;  // bytes per second, by the bytes that are read again and again
  Curve row_bandwidth;   // bytes per second that norms, sums and other work on rows read and write, by bytes
  // Operations per second (a multiplication and an addition are two) of a node's cores together or of one
  // device, with the weights at hand, by rows. Without what chunk_sums has.
  std::array<Curve, kNumProductKinds> products;
  Curve chunk_sums;        // sums of canonical chunks that become fixed point, per second, by rows
  Curve attention;         // operations per second, by new tokens of a sequence
  Curve sampling;          // logits per second, by rows
  Curve op_overhead;       // seconds that an op takes beyond its work, by threads of a rank
  Curve step_overhead;     // seconds of a step beyond its ops, by ranks
  Curve row_overhead;      // seconds that the engine's thread takes for each row of logits, by rows
  CollectiveCosts within;  // groups of one node
  CollectiveCosts across;  // groups of several nodes; may be empty where the machine is one node

  bool shares_cores() const { return kind == "cpu"; }
  bool has_links_between_nodes() const { return across != CollectiveCosts{}; }
  bool operator==(const MachineProfile&) const = default;
};

// Every curve of the profile with the name of its field, "products.gated", in the order of a file. `across`
// is left out where it is empty.
std::vector<std::pair<std::string, const Curve*>> named_curves(const MachineProfile& machine);
std::vector<std::pair<std::string, Curve*>> named_curves(MachineProfile& machine);

// Throws Error that names the field: a curve without points or source, a number that is not above 0 or not
// finite, points that do not ascend.
void check_profile(const MachineProfile& machine);

}  // namespace chorale::parallel
