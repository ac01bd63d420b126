// How much memory all answers that are being made may take together: their prompts' ids, and what is kept of
// their output until it is told.
#pragma once

#include <atomic>
#include <cstdint>

namespace chorale::server {

// Thread-safe.
class AnswerBudget {
 public:
  explicit AnswerBudget(uint64_t most) : most_(most) {}

  uint64_t most() const { return most_; }
  uint64_t taken() const { return taken_; }

  // One answer's part; all of it is given back at the end. Not thread-safe; the budget outlives it.
  class Share {
   public:
    explicit Share(AnswerBudget& budget) : budget_(budget) {}
    ~Share() { budget_.taken_ -= bytes_; }
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;

    // False, and nothing is taken, when all together would have more than they may.
    bool grow(uint64_t bytes) {
      if (budget_.taken_.fetch_add(bytes) + bytes > budget_.most_) {
        budget_.taken_ -= bytes;
        return false;
      }
      bytes_ += bytes;
      return true;
    }

   private:
    AnswerBudget& budget_;
    uint64_t bytes_ = 0;
  };

 private:
  const uint64_t most_;
  std::atomic<uint64_t> taken_{0};
};

}  // namespace chorale::server
