#include "engine/mpi_ranks.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/memory_info.h"

namespace chorale::engine {
namespace {

// From one question to the next.
constexpr std::chrono::milliseconds kPause{10};

std::vector<int32_t> numbers_of(const parallel::Strategy& s) {
  return {s.tp_size, s.dp_size, s.ep_size, s.moe_tp_size, s.moe_dp_size};
}

parallel::Strategy strategy_of(std::span<const int32_t> numbers) {
  CHORALE_CHECK(numbers.size() == 5, "a strategy of {} numbers", numbers.size());
  return {.tp_size = numbers[0],
          .dp_size = numbers[1],
          .ep_size = numbers[2],
          .moe_tp_size = numbers[3],
          .moe_dp_size = numbers[4]};
}

MpiRunner& runner_of(const PreparedRunner& ranks) {
  auto* const runner = dynamic_cast<MpiRunner*>(ranks.runner.get());
  CHORALE_CHECK(runner != nullptr, "ranks of another kind");
  return *runner;
}

bool is_failure(const Outcome& outcome) {
  return outcome.state == Outcome::State::failed;
}

}  // namespace

MpiRanks::MpiRanks(MpiChannel& channel, RankMaker maker) : channel_(channel), maker_(std::move(maker)) {}

// ---- rank 0 ----

std::unique_ptr<PreparedRunner> MpiRanks::prepare(const parallel::Strategy& strategy,
                                                  const BetweenSteps& between_steps) {
  const std::vector<int32_t> numbers = numbers_of(strategy);
  between_steps([&] {
    channel_.drive([&] {
      channel_.tell(RankWork::plan_ranks, numbers);
      plan_own(numbers);
    });
  });
  const std::vector<Outcome> planned = wait_for_all(between_steps);
  const int64_t kv_tokens = std::ranges::min_element(planned, {}, &Outcome::value)->value;
  between_steps([&] {
    channel_.drive([&] {
      channel_.tell(RankWork::make_ranks, kv_tokens);
      make_own(kv_tokens);
    });
  });
  wait_for_all(between_steps);
  return std::move(made_);
}

std::vector<Outcome> MpiRanks::wait_for_all(const BetweenSteps& between_steps) {
  std::vector<Outcome> outcomes;
  try {
    do {
      std::this_thread::sleep_for(kPause);
      between_steps([&] {
        channel_.drive([&] {
          channel_.tell(RankWork::ask_ranks);
          outcomes = channel_.gather(ask_own());
        });
      });
    } while (any_pending(outcomes));
  } catch (...) {
    if (std::ranges::any_of(outcomes, is_failure)) drop(between_steps);
    throw;
  }
  return outcomes;
}

void MpiRanks::drop(const BetweenSteps& between_steps) {
  between_steps([&] {
    channel_.drive([&] { channel_.tell(RankWork::drop_ranks); });
    drop_own();
  });
}

// ---- the other ranks ----

void MpiRanks::serve(std::unique_ptr<PreparedRunner>& ranks) {
  while (serve(channel_.await(), ranks)) {
  }
}

// False when nothing more is to be done.
bool MpiRanks::serve(const Announcement& announcement, std::unique_ptr<PreparedRunner>& ranks) {
  switch (announcement.work) {
    case RankWork::stop:
      return false;
    case RankWork::plan_ranks:
      channel_.receive(announcement, numbers_);
      plan_own(numbers_);
      return true;
    case RankWork::make_ranks:
      make_own(announcement.value);
      return true;
    case RankWork::ask_ranks:
      channel_.gather(ask_own());
      return true;
    case RankWork::drop_ranks:
      drop_own();
      return true;
    case RankWork::take_over:
      CHORALE_CHECK(made_ != nullptr, "no ranks are made");
      channel_.receive(announcement, numbers_);
      runner_of(*made_).take_kv(runner_of(*ranks), numbers_);
      std::swap(ranks, made_);
      destroy(std::move(made_));
      return true;
    default:
      runner_of(*ranks).serve(announcement);
      return true;
  }
}

// ---- all ranks ----

// What ran before the ranks that run now is gone before memory is looked at.
void MpiRanks::plan_own(std::span<const int32_t> strategy) {
  job_ = std::async(std::launch::async, [this, wanted = strategy_of(strategy)] {
    if (destroying_.valid()) destroying_.get();
    planned_.reset();
    planned_.emplace(maker_.plan(wanted));
    return Outcome{.value = planned_->memory.kv_tokens};
  });
}

void MpiRanks::make_own(int64_t kv_tokens) {
  CHORALE_CHECK(planned_.has_value(), "no ranks are planned");
  planned_->memory.kv_tokens = kv_tokens;
  const auto rank = static_cast<size_t>(channel_.rank());
  job_ = std::async(std::launch::async,
                    [this, groups = channel_.groups_of(planned_->parallel.ranks[rank].topology)] {
                      made_ = maker_.make(std::move(*planned_), groups);
                      planned_.reset();
                      return Outcome{};
                    });
}

Outcome MpiRanks::ask_own() {
  if (!job_.valid()) return outcome_;
  if (job_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    return {.state = Outcome::State::pending};
  }
  try {
    outcome_ = job_.get();
  } catch (const std::exception& error) {
    outcome_ = failed_outcome(error.what());
  }
  return outcome_;
}

void MpiRanks::drop_own() {
  destroy(std::move(made_));
}

// Large memory is given back beside the steps.
void MpiRanks::destroy(std::unique_ptr<PreparedRunner> ranks) {
  destroying_ = std::async(std::launch::async, [ranks = std::move(ranks)]() mutable {
    ranks.reset();
    return_free_memory();
  });
}

}  // namespace chorale::engine
