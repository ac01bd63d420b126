#include "engine/mpi_channel.h"

#include <algorithm>
#include <cstddef>

namespace chorale::engine {
namespace {

std::span<std::byte> bytes_of(std::span<const int32_t> numbers) {
  // A broadcast writes to the memory of those who receive alone.
  return {reinterpret_cast<std::byte*>(const_cast<int32_t*>(numbers.data())), numbers.size_bytes()};
}

}  // namespace

Outcome failed_outcome(std::string_view reason) {
  Outcome outcome{.state = Outcome::State::failed};
  reason.copy(outcome.reason, sizeof outcome.reason - 1);
  return outcome;
}

bool any_pending(std::span<const Outcome> outcomes) {
  if (std::ranges::count(outcomes, Outcome::State::pending, &Outcome::state) > 0) return true;
  const auto failed = std::ranges::find(outcomes, Outcome::State::failed, &Outcome::state);
  if (failed != outcomes.end())
    throw_error("rank {}: {}", failed - outcomes.begin(), std::string_view(failed->reason));
  return false;
}

MpiChannel::MpiChannel(comm::MpiWorld& mpi, comm::DeviceLink link)
    : mpi_(mpi),
      watch_(std::move(link.watch)),
      stream_(pool_, InstructionSet::portable),
      world_(std::move(link.transport), &traffic_) {}

MpiChannel::~MpiChannel() {
  if (!is_begun_ || failed_) return;
  try {
    tell(RankWork::stop);
  } catch (const comm::CollectiveError&) {
    // A rank that is gone need not be told.
  }
}

void MpiChannel::tell(RankWork work, int64_t value) {
  Announcement sent{.work = work, .value = value};
  world_.broadcast(stream_, std::as_writable_bytes(std::span(&sent, 1)), 0, comm::Purpose::control);
}

void MpiChannel::tell(RankWork work, std::span<const int32_t> numbers) {
  tell(work, numbers, world_);
}

void MpiChannel::tell(RankWork work, std::span<const int32_t> numbers, const comm::Communicator& group) {
  Announcement sent{.work = work, .size = std::ssize(numbers)};
  world_.broadcast(stream_, std::as_writable_bytes(std::span(&sent, 1)), 0, comm::Purpose::control);
  group.broadcast(stream_, bytes_of(numbers), 0, comm::Purpose::control);
}

Announcement MpiChannel::await() {
  Announcement next;
  world_.await_broadcast(stream_, std::as_writable_bytes(std::span(&next, 1)), 0, comm::Purpose::control);
  return next;
}

void MpiChannel::receive(const Announcement& announcement, std::vector<int32_t>& numbers) const {
  receive(announcement, numbers, world_);
}

void MpiChannel::receive(const Announcement& announcement, std::vector<int32_t>& numbers,
                         const comm::Communicator& group) const {
  numbers.resize(static_cast<size_t>(announcement.size));
  group.broadcast(stream_, bytes_of(numbers), 0, comm::Purpose::control);
}

std::vector<Outcome> MpiChannel::gather(const Outcome& mine) const {
  constexpr int64_t kSize = sizeof(Outcome);
  std::vector<Outcome> all(rank() == 0 ? static_cast<size_t>(world_.size()) : 0);
  Outcome sent = mine;
  const Tensor row(&sent, DType::u8, 1, kSize, kSize);
  const Tensor rows = rank() == 0 ? Tensor(all.data(), DType::u8, std::ssize(all), kSize, kSize) : Tensor();
  world_.gather_equal_rows(stream_, row, rows, 0, comm::Purpose::control);
  return all;
}

MpiGroups MpiChannel::groups_of(const parallel::Topology& topology) {
  const auto find = [&](std::map<int, comm::Communicator>& made, int size, int color, int key) {
    auto found = made.find(size);
    if (found == made.end()) found = made.emplace(size, world_.split(color, key)).first;
    return found->second;
  };
  const parallel::Group& attention = topology.group(parallel::GroupKind::attention_tp);
  const parallel::Group& experts = topology.group(parallel::GroupKind::expert_group);
  // In this order on every rank.
  MpiGroups groups;
  groups.leaders = find(leaders_, attention.size(), attention.index == 0 ? 0 : 1, rank());
  groups.ranks.attention = find(attention_, attention.size(), attention.color(), attention.index);
  groups.ranks.experts = find(experts_, experts.size(), experts.color(), experts.index);
  return groups;
}

}  // namespace chorale::engine
