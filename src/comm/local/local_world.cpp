#include "comm/local/local_world.h"

#include <numeric>

#include "base/error.h"
#include "comm/local/group.h"
#include "comm/local/local_transport.h"

namespace chorale::comm {

LocalWorld::LocalWorld(int size, std::chrono::milliseconds time_limit) {
  CHORALE_CHECK(size >= 1 && static_cast<size_t>(size) <= kMaxRanks, "{} ranks; 1 to {} are supported", size,
                kMaxRanks);
  world_ = std::make_shared<local::World>(size, time_limit);
  const auto group = std::make_shared<local::Group>(world_, static_cast<size_t>(size));
  std::vector<int> all(static_cast<size_t>(size));
  std::iota(all.begin(), all.end(), 0);
  group->assign(all);
  for (const int rank : all) ranks_.push_back(std::make_shared<local::LocalTransport>(group, rank));
}

LocalWorld::~LocalWorld() = default;

int LocalWorld::size() const {
  return world_->size();
}

std::shared_ptr<Transport> LocalWorld::transport(int rank) const {
  return ranks_.at(static_cast<size_t>(rank));
}

void LocalWorld::fail(int world_rank, std::string_view reason) {
  world_->fail(world_rank, reason);
}

std::optional<CollectiveError> LocalWorld::failure() const {
  return world_->failure();
}

}  // namespace chorale::comm
