#include "engine/rank_processes.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <span>
#include <string>

#include "base/error.h"

namespace chorale::engine {
namespace {

bool uses_mpi(const ParallelOptions& options) {
  if (options.communicator == "auto") return comm::MpiWorld::is_launched_by_mpi();
  return options.communicator == "mpi";
}

// As "srun" does without PMIx, or the mpirun of another MPI.
[[noreturn]] void refuse_launch(const comm::MpiWorld::Launch& launch) {
  throw_error(
      "{}={}: {} processes were started together, but they do not reach each other through MPI; start them "
      "with this "
      "MPI's mpirun, or with \"srun --mpi=pmix\", which \"srun --mpi=list\" must have; --communicator local "
      "lets each "
      "process run by itself",
      launch.variable, launch.processes, launch.processes);
}

std::unique_ptr<comm::MpiWorld> join_mpi(const ParallelOptions& options) {
  const auto limit = std::chrono::milliseconds(static_cast<int64_t>(options.collective_timeout * 1000));
  auto mpi = std::make_unique<comm::MpiWorld>(comm::MpiOptions{.time_limit = limit});
  const auto launch = comm::MpiWorld::launch();
  if (mpi->size() == 1 && launch && launch->processes > 1) refuse_launch(*launch);
  return mpi;
}

}  // namespace

void check_launcher(const ParallelOptions& options) {
  if (options.communicator != "auto" || uses_mpi(options)) return;
  const auto launch = comm::MpiWorld::launch();
  if (launch && launch->processes > 1) refuse_launch(*launch);
}

RankProcesses::RankProcesses(const ParallelOptions& options, const parallel::Strategy& strategy)
    : strategy_(strategy) {
  check_launcher(options);
  if (uses_mpi(options)) {
    mpi_ = join_mpi(options);
    ranks_here_ = {mpi_->rank()};
  } else {
    ranks_here_.resize(static_cast<size_t>(strategy.world()));
    std::iota(ranks_here_.begin(), ranks_here_.end(), 0);
  }
}

void RankProcesses::require_world() const {
  if (mpi_ == nullptr || mpi_->size() == strategy_.world()) return;
  throw_error(
      "--communicator mpi: the strategy {} has {} ranks, but {} processes were started; start as many, or "
      "change "
      "--tp-size and --dp-size so that their product is {}",
      parallel::to_string(strategy_), strategy_.world(), mpi_->size(), mpi_->size());
}

int RankProcesses::num_on_this_host() const {
  return mpi_ == nullptr ? 1 : static_cast<int>(mpi_->ranks_on_this_host().size());
}

std::vector<int> RankProcesses::host_numbers() const {
  std::vector<int> numbers(static_cast<size_t>(strategy_.world()), 0);
  if (mpi_ == nullptr) return numbers;
  std::map<std::string, int> seen;
  for (int rank = 0; rank < strategy_.world(); ++rank) {
    numbers[static_cast<size_t>(rank)] =
        seen.emplace(mpi_->host_of(rank), static_cast<int>(seen.size())).first->second;
  }
  return numbers;
}

int64_t RankProcesses::least_of_all(int64_t mine) const {
  if (mpi_ == nullptr) return mine;
  const auto size = static_cast<size_t>(mpi_->size());
  std::vector<int64_t> all(size);
  std::vector<int64_t> sizes;
  for (size_t rank = 0; rank < size; ++rank) sizes.push_back(sizeof(int64_t));
  mpi_->transport()->all_gather(std::as_bytes(std::span(&mine, 1)), sizes,
                                std::as_writable_bytes(std::span(all)));
  return *std::min_element(all.begin(), all.end());
}

}  // namespace chorale::engine
