// What every transport must do, written once: each case is run by all ranks of a world together, over threads
// by tests/unit/comm and over MPI by tests/mpi.
#pragma once

#include <array>
#include <chrono>
#include <limits>
#include <thread>

#include "base/copy.h"
#include "base/stream.h"
#include "comm/communicator.h"
#include "unit/comm/operations.h"

namespace chorale::comm::conformance {

struct Case {
  const char* name;
  void (*run)(Transport& world);
};

// Nobody leaves before the last one has come. The clock is that of the host.
inline void barrier_waits_for_all(Transport& t) {
  const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
  for (int round = 0; round < 2 * t.size(); ++round) {
    if (round % t.size() == t.rank()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::array<int64_t, 2> mine{now(), 0};
    t.barrier();
    mine[1] = now();
    std::vector<std::array<int64_t, 2>> all(static_cast<size_t>(t.size()));
    t.all_gather(std::as_bytes(std::span(mine)), std::vector<int64_t>(all.size(), sizeof mine),
                 std::as_writable_bytes(std::span(all)));
    for (const auto& come : all)
      for (const auto& gone : all) EXPECT_LE(come[0], gone[1]) << where("barrier", t, round);
  }
}

inline void broadcast_from_every_root(Transport& t) {
  int round = 0;
  for (const size_t n : {size_t{0}, size_t{1}, size_t{7}, size_t{4096}, size_t{200'001}})
    for (int root = 0; root < t.size(); ++root) {
      try_broadcast(t, ++round, n, root);
      try_broadcast(t, ++round, n, root, true);
    }
}

inline void all_reduce_of_any_length(Transport& t) {
  const auto ranks = static_cast<size_t>(t.size());
  int round = 0;
  for (const size_t n : {size_t{0}, size_t{1}, ranks - 1, ranks, ranks + 1, size_t{1000}, size_t{65'537}})
    try_all_reduce(t, ++round, n);
}

inline void sums_wrap_around(Transport& t) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> values{kMost, t.rank() == 0 ? kMost : 1, -5};
  t.all_reduce_sum(values);
  const auto ranks = static_cast<uint64_t>(t.size());
  EXPECT_EQ(values[0], static_cast<int64_t>(ranks * static_cast<uint64_t>(kMost)));
  EXPECT_EQ(values[1], static_cast<int64_t>(static_cast<uint64_t>(kMost) + ranks - 1));
  EXPECT_EQ(values[2], -5 * static_cast<int64_t>(ranks));
}

inline void reduce_scatter_with_uneven_parts(Transport& t) {
  Draw draw(11);
  const auto ranks = static_cast<size_t>(t.size());
  try_reduce_scatter(t, 0, std::vector<int64_t>(ranks, 0));
  try_reduce_scatter(t, 1, std::vector<int64_t>(ranks, 300));
  std::vector<int64_t> one_has_all(ranks, 0);
  one_has_all.back() = 140'000;
  try_reduce_scatter(t, 2, one_has_all);
  for (int round = 3; round < 10; ++round) try_reduce_scatter(t, round, draw.sizes(t.size(), 5000));
}

inline void all_gather_with_uneven_parts(Transport& t) {
  Draw draw(12);
  const auto ranks = static_cast<size_t>(t.size());
  try_all_gather(t, 0, std::vector<int64_t>(ranks, 0));
  try_all_gather(t, 1, std::vector<int64_t>(ranks, 1));
  for (int round = 2; round < 10; ++round) try_all_gather(t, round, draw.sizes(t.size(), 20'000));
}

inline void gather_to_every_root(Transport& t) {
  Draw draw(13);
  for (int root = 0; root < t.size(); ++root)
    for (const size_t most : {size_t{0}, size_t{9}, size_t{30'000}})
      try_gather(t, root, draw.sizes(t.size(), most), root);
}

inline void all_to_all_with_uneven_parts(Transport& t) {
  Draw draw(14);
  const auto ranks = static_cast<size_t>(t.size());
  std::vector<std::vector<int64_t>> to_the_first(ranks, std::vector<int64_t>(ranks, 0));
  try_all_to_all(t, 0, to_the_first);
  for (auto& sizes : to_the_first) sizes[0] = 777;
  try_all_to_all(t, 1, to_the_first);
  for (int round = 2; round < 10; ++round) try_all_to_all(t, round, drawn_matrix(draw, t.size(), 10'000));
}

inline void any_operation_any_shape(Transport& t) {
  Draw draw(15);
  for (int round = 0; round < 150; ++round) try_any(t, round, draw, round % 10 == 0 ? 20'000 : 200);
}

// Checks who is in the group, then that it works.
inline std::shared_ptr<Transport> try_split(Transport& t, int color, int key,
                                            const std::vector<int>& world_ranks) {
  std::shared_ptr<Transport> part = t.split(color, key);
  EXPECT_EQ(part->world_rank(), t.world_rank());
  if (part->size() != static_cast<int>(world_ranks.size())) {
    ADD_FAILURE() << part->size() << " ranks instead of " << world_ranks.size();
    return part;
  }
  EXPECT_EQ(world_ranks[static_cast<size_t>(part->rank())], t.world_rank());
  Draw draw(16);
  for (int round = 0; round < 12; ++round) try_any(*part, round, draw, 100);
  return part;
}

inline void split_by_color_and_key(Transport& world) {
  const int me = world.rank(), ranks = world.size();
  for (const int colors : {1, 2, 3, ranks}) {
    std::vector<int> members, reversed;
    for (int r = me % colors; r < ranks; r += colors) members.push_back(r);
    reversed.assign(members.rbegin(), members.rend());
    try_split(world, me % colors, me, members);
    try_split(world, me % colors, 7, members);  // equal keys: in the order of ranks
    try_split(world, 100 + me % colors, -me, reversed);
  }
}

inline void splits_of_splits(Transport& world) {
  const int me = world.rank(), ranks = world.size();
  std::vector<int> low, high;
  for (int r = 0; r < ranks; ++r) (r < (ranks + 1) / 2 ? low : high).push_back(r);
  const bool is_low = me < (ranks + 1) / 2;
  const std::vector<int>& half = is_low ? low : high;
  const auto part = try_split(world, is_low ? 0 : 1, me, half);
  std::vector<int> quarter;
  for (size_t i = static_cast<size_t>(part->rank()) % 2; i < half.size(); i += 2)
    quarter.insert(quarter.begin(), half[i]);
  const auto of_part = try_split(*part, part->rank() % 2, -part->rank(), quarter);
  try_split(*of_part, of_part->rank(), 0, {me});
  Draw draw(17);
  for (int round = 0; round < 20; ++round) try_any(world, round, draw, 100);
}

// Rows and columns of a grid of ranks, as attention and expert groups are, and the world in between.
inline void operations_of_several_groups_interleave(Transport& world) {
  const int columns = world.size() % 2 == 0 ? 2 : 1;
  const int me = world.rank();
  const auto row = world.split(me / columns, me);
  const auto column = world.split(me % columns, -me);
  Draw draw(18);
  for (int round = 0; round < 60; ++round) {
    try_any(*row, round, draw, 300);
    try_any(*column, round, draw, 300);
    if (draw.below(3) == 0) try_any(world, round, draw, 300);
  }
}

// A matrix [rows, columns] whose rows lie `stride` values apart; what pads them is part of the payload.
struct Rows {
  static constexpr int64_t kColumns = 5, kStride = 8;
  std::vector<int64_t> memory;
  explicit Rows(std::vector<int64_t> values) : memory(std::move(values)) {}
  explicit Rows(int64_t rows) : memory(static_cast<size_t>(rows * kStride)) {}
  Tensor tensor() {
    return {memory.data(), DType::i64, static_cast<int64_t>(memory.size()) / kStride, kColumns, kStride};
  }
};

inline std::vector<int64_t> values_by_rank(std::span<const int64_t> rows_of, int round) {
  std::vector<int64_t> all;
  for (size_t r = 0; r < rows_of.size(); ++r)
    append(all, values({.from = static_cast<int>(r), .round = round},
                       static_cast<size_t>(rows_of[r] * Rows::kStride)));
  return all;
}

// The operations of a communicator on rows with padding, and the exact bytes that it counts.
inline void rows_with_padding_and_traffic(Transport& world) {
  // The case borrows the transport from the world, which outlives it.
  Traffic traffic;
  const Communicator group(std::shared_ptr<Transport>(&world, [](Transport*) {}), &traffic);
  ThreadPool pool(1);
  const Stream stream(pool, InstructionSet::portable);
  const int ranks = group.size(), me = group.rank();
  constexpr int64_t kRow = Rows::kStride * sizeof(int64_t);
  std::vector<int64_t> rows_of(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) rows_of[static_cast<size_t>(r)] = (r * 3) % 4;  // 0, 3, 2, 1, 0, ...
  const auto rows = static_cast<int64_t>(total(rows_of)), mine = rows_of[static_cast<size_t>(me)];
  const Origin origin{.from = me, .round = 1};
  const auto sent = [&](Purpose p) { return static_cast<int64_t>(traffic.bytes[static_cast<size_t>(p)]); };

  Rows parts(values(origin, static_cast<size_t>(rows * Rows::kStride))), sum(mine);
  group.reduce_scatter_sum(stream, parts.tensor(), rows_of, sum.tensor(), Purpose::combine);
  const std::vector<int64_t> all_sums = sums(ranks, 1, static_cast<size_t>(rows * Rows::kStride));
  const auto first =
      static_cast<ptrdiff_t>(total(std::span(rows_of).first(static_cast<size_t>(me)))) * Rows::kStride;
  EXPECT_EQ(sum.memory,
            std::vector<int64_t>(all_sums.begin() + first, all_sums.begin() + first + mine * Rows::kStride));
  EXPECT_EQ(sent(Purpose::combine), ranks == 1 ? 0 : (rows - mine) * kRow);

  group.all_reduce_sum(stream, parts.tensor(), Purpose::dispatch);
  EXPECT_EQ(parts.memory, all_sums);
  EXPECT_EQ(sent(Purpose::dispatch), 2 * rows * kRow * (ranks - 1) / ranks);

  Rows own(values(origin, static_cast<size_t>(mine * Rows::kStride))), all(rows);
  group.all_gather_rows(stream, own.tensor(), rows_of, all.tensor(), Purpose::attention);
  EXPECT_EQ(all.memory, values_by_rank(rows_of, 1));
  EXPECT_EQ(sent(Purpose::attention), mine * kRow * (ranks - 1));

  const int root = ranks - 1;
  Rows gathered(rows);
  group.gather_rows(stream, own.tensor(), rows_of, me == root ? gathered.tensor() : Tensor(), root,
                    Purpose::logits);
  EXPECT_EQ(gathered.memory, me == root ? values_by_rank(rows_of, 1) : Rows(rows).memory);
  EXPECT_EQ(sent(Purpose::logits), me == root ? 0 : mine * kRow);

  std::vector<std::byte> message = bytes({.from = root}, 100);
  if (me != root) std::fill(message.begin(), message.end(), std::byte{});
  group.broadcast(stream, message, root, Purpose::control);
  group.await_broadcast(stream, message, root, Purpose::control);
  EXPECT_EQ(message, bytes({.from = root}, 100));
  EXPECT_EQ(sent(Purpose::control), me == root ? 200 * (ranks - 1) : 0);
  EXPECT_EQ(traffic.operations[static_cast<size_t>(Purpose::control)], ranks == 1 ? 0U : 2U);
}

inline void rows_from_all_to_all(Transport& world) {
  Traffic traffic;
  const Communicator whole(std::shared_ptr<Transport>(&world, [](Transport*) {}), &traffic);
  ThreadPool pool(1);
  const Stream stream(pool, InstructionSet::portable);
  const int ranks = whole.size();
  const Communicator group = whole.split(0, -whole.rank());  // counts for the world, too
  const int me = group.rank();
  std::vector<int64_t> sent_rows, expected_rows, sent, expected;
  for (int r = 0; r < ranks; ++r) {
    sent_rows.push_back((me + 2 * r + 1) % 3);
    expected_rows.push_back((r + 2 * me + 1) % 3);
    append(sent, values({.from = me, .to = r}, static_cast<size_t>(sent_rows.back() * Rows::kStride)));
    append(expected,
           values({.from = r, .to = me}, static_cast<size_t>(expected_rows.back() * Rows::kStride)));
  }
  Rows send(sent), received(2 * ranks + 1);
  std::vector<int64_t> received_rows(static_cast<size_t>(ranks));
  const int64_t rows =
      group.all_to_all_rows(stream, send.tensor(), host_vector<int64_t>(sent_rows), received.tensor(),
                            host_vector<int64_t>(received_rows), Purpose::dispatch);
  EXPECT_EQ(rows, static_cast<int64_t>(total(expected_rows)));
  EXPECT_EQ(received_rows, expected_rows);
  expected.resize(received.memory.size());
  EXPECT_EQ(received.memory, expected);
  const int64_t to_others = static_cast<int64_t>(total(sent_rows)) - sent_rows[static_cast<size_t>(me)];
  EXPECT_EQ(traffic.bytes[static_cast<size_t>(Purpose::dispatch)],
            static_cast<uint64_t>(to_others * Rows::kStride) * sizeof(int64_t));

  Rows one({1, 2, 3, 4, 5, me, 7, 8}), each(ranks);
  group.gather_equal_rows(stream, one.tensor(), me == 0 ? each.tensor() : Tensor(), 0, Purpose::control);
  for (int r = 0; r < ranks && me == 0; ++r) EXPECT_EQ(each.memory[static_cast<size_t>(r) * 8 + 5], r);
}

inline const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"BarrierWaitsForAll", barrier_waits_for_all},
      {"BroadcastFromEveryRoot", broadcast_from_every_root},
      {"AllReduceOfAnyLength", all_reduce_of_any_length},
      {"SumsWrapAround", sums_wrap_around},
      {"ReduceScatterWithUnevenParts", reduce_scatter_with_uneven_parts},
      {"AllGatherWithUnevenParts", all_gather_with_uneven_parts},
      {"GatherToEveryRoot", gather_to_every_root},
      {"AllToAllWithUnevenParts", all_to_all_with_uneven_parts},
      {"AnyOperationAnyShape", any_operation_any_shape},
      {"SplitByColorAndKey", split_by_color_and_key},
      {"SplitsOfSplits", splits_of_splits},
      {"OperationsOfSeveralGroupsInterleave", operations_of_several_groups_interleave},
      {"RowsWithPaddingAndTraffic", rows_with_padding_and_traffic},
      {"RowsFromAllToAll", rows_from_all_to_all},
  };
  return all;
}

}  // namespace chorale::comm::conformance
