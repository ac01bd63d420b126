// Runs every rank of a LocalWorld in a thread of its own.
#pragma once

#include <exception>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "comm/local/local_world.h"

namespace chorale::comm {

// What each rank's thread ended with: nothing, or the CollectiveError that it got. A rank whose body throws
// anything else fails the world.
inline std::vector<std::optional<CollectiveError>> run_ranks(LocalWorld& world,
                                                             const std::function<void(Transport&)>& body) {
  std::vector<std::optional<CollectiveError>> errors(static_cast<size_t>(world.size()));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world.size(); ++rank)
    threads.emplace_back([&, rank] {
      try {
        body(*world.transport(rank));
      } catch (const CollectiveError& error) {
        errors[static_cast<size_t>(rank)] = error;
      } catch (const std::exception& error) {
        world.fail(rank, error.what());
      }
    });
  for (std::thread& thread : threads) thread.join();
  return errors;
}

}  // namespace chorale::comm
