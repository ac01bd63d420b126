// One call of each operation of a transport, with its result checked. Collective.
#pragma once

#include "comm/communicator.h"
#include "unit/comm/payload.h"

namespace chorale::comm::conformance {

inline std::string where(const char* operation, const Transport& t, int round) {
  return fmt::format("{} on rank {} of {} (world {}), round {}", operation, t.rank(), t.size(),
                     t.world_rank(), round);
}

inline void try_broadcast(Transport& t, int round, size_t n, int root, bool patiently = false) {
  Guarded<std::byte> data(n);
  const std::vector<std::byte> sent = bytes({.from = root, .round = round}, n);
  if (t.rank() == root) std::copy(sent.begin(), sent.end(), data.span().begin());
  patiently ? t.await_broadcast(data.span(), root) : t.broadcast(data.span(), root);
  data.expect(sent, where("broadcast", t, round));
}

inline void try_all_reduce(Transport& t, int round, size_t n) {
  Guarded<int64_t> data(n);
  const std::vector<int64_t> mine = values({.from = t.rank(), .round = round}, n);
  std::copy(mine.begin(), mine.end(), data.span().begin());
  t.all_reduce_sum(data.span());
  data.expect(sums(t.size(), round, n), where("all_reduce", t, round));
}

inline void try_reduce_scatter(Transport& t, int round, const std::vector<int64_t>& counts) {
  const auto me = static_cast<size_t>(t.rank());
  const std::vector<int64_t> mine = values({.from = t.rank(), .round = round}, total(counts));
  Guarded<int64_t> part(static_cast<size_t>(counts[me]));
  t.reduce_scatter_sum(mine, counts, part.span());
  const std::vector<int64_t> all = sums(t.size(), round, total(counts));
  const auto begin = all.begin() + static_cast<ptrdiff_t>(total(std::span(counts).first(me)));
  part.expect({begin, begin + counts[me]}, where("reduce_scatter", t, round));
  EXPECT_EQ(mine, values({.from = t.rank(), .round = round}, total(counts))) << "inputs stay as they are";
}

inline std::vector<std::byte> all_parts(int round, const std::vector<int64_t>& sizes) {
  std::vector<std::byte> all;
  for (size_t r = 0; r < sizes.size(); ++r)
    append(all, bytes({.from = static_cast<int>(r), .round = round}, static_cast<size_t>(sizes[r])));
  return all;
}

inline void try_all_gather(Transport& t, int round, const std::vector<int64_t>& sizes) {
  const std::vector<std::byte> mine =
      bytes({.from = t.rank(), .round = round}, static_cast<size_t>(sizes[static_cast<size_t>(t.rank())]));
  Guarded<std::byte> all(total(sizes));
  t.all_gather(mine, sizes, all.span());
  all.expect(all_parts(round, sizes), where("all_gather", t, round));
}

inline void try_gather(Transport& t, int round, const std::vector<int64_t>& sizes, int root) {
  const std::vector<std::byte> mine =
      bytes({.from = t.rank(), .round = round}, static_cast<size_t>(sizes[static_cast<size_t>(t.rank())]));
  const bool is_root = t.rank() == root;
  Guarded<std::byte> all(is_root ? total(sizes) : 0);
  t.gather(mine, sizes, all.span(), root);
  all.expect(is_root ? all_parts(round, sizes) : std::vector<std::byte>(), where("gather", t, round));
}

// sizes[r]: what rank r sends to each rank.
inline void try_all_to_all(Transport& t, int round, const std::vector<std::vector<int64_t>>& sizes) {
  const auto me = static_cast<size_t>(t.rank());
  std::vector<std::byte> sent, expected;
  std::vector<int64_t> expected_sizes;
  for (size_t r = 0; r < sizes.size(); ++r) {
    const int other = static_cast<int>(r);
    append(sent, bytes({.from = t.rank(), .to = other, .round = round}, static_cast<size_t>(sizes[me][r])));
    append(expected,
           bytes({.from = other, .to = t.rank(), .round = round}, static_cast<size_t>(sizes[r][me])));
    expected_sizes.push_back(sizes[r][me]);
  }
  Guarded<std::byte> received(expected.size() + 5);  // more room than needed stays untouched
  std::vector<int64_t> received_sizes(sizes.size(), -1);
  t.all_to_all(sent, sizes[me], received.span(), received_sizes);
  received.expect(expected, where("all_to_all", t, round));
  EXPECT_EQ(received_sizes, expected_sizes) << where("all_to_all", t, round);
}

inline std::vector<std::vector<int64_t>> drawn_matrix(Draw& draw, int ranks, size_t most) {
  std::vector<std::vector<int64_t>> out;
  for (int r = 0; r < ranks; ++r) out.push_back(draw.sizes(ranks, most));
  return out;
}

// Any operation with any shape; the same on all ranks for the same draw.
inline void try_any(Transport& t, int round, Draw& draw, size_t most) {
  const int root = static_cast<int>(draw.below(static_cast<size_t>(t.size())));
  switch (draw.below(8)) {
    case 0:
      return t.barrier();
    case 1:
      return try_broadcast(t, round, draw.below(most), root);
    case 2:
      return try_broadcast(t, round, draw.below(most), root, true);
    case 3:
      return try_all_reduce(t, round, draw.below(most));
    case 4:
      return try_reduce_scatter(t, round, draw.sizes(t.size(), most));
    case 5:
      return try_all_gather(t, round, draw.sizes(t.size(), most));
    case 6:
      return try_gather(t, round, draw.sizes(t.size(), most), root);
    default:
      return try_all_to_all(t, round, drawn_matrix(draw, t.size(), most));
  }
}

}  // namespace chorale::comm::conformance
