// What the ops of a step took: one record for each call of an op on a stream that has a profile.
//
// On the CPU the time is the caller's: an op is finished when its call returns. On another device the queue
// marks its own time before and after the work of each op.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

#include "base/device.h"

namespace chorale {

// What an op must at least do. Zero where nobody has counted it.
struct OpWork {
  double bytes = 0;       // read from matrices and from the KV cache, each byte once
  double operations = 0;  // a multiplication and an addition are two
};

struct OpRecord {
  const char* name = nullptr;  // a literal
  std::chrono::steady_clock::time_point begin, end;
  OpWork work;
};

// Not thread-safe: of one rank.
class OpProfile {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // The ops that are recorded are this queue's, which must live until they have been stopped; null: the
  // CPU's.
  void set_queue(Queue* queue) { queue_ = queue; }

  // Records from here on, beginning anew.
  void start();
  // Waits for the queue.
  void stop();
  bool is_on() const { return is_on_; }
  std::span<const OpRecord> records() const { return records_; }  // complete once stopped

 private:
  friend class OpScope;

  // Where an op begins or ends: the time, or the number of the queue's mark.
  struct Moment {
    TimePoint time;
    int64_t mark = 0;
  };
  Moment now() const;
  void add(const char* name, const Moment& begin, const Moment& end, const OpWork& work);

  struct Marks {
    int64_t begin, end;
  };
  Queue* queue_ = nullptr;
  TimePoint start_;
  std::vector<OpRecord> records_;
  std::vector<Marks> marks_;  // of the records, with a queue
  bool is_on_ = false;
};

// Records the op that runs while it lives, and costs one comparison when there is no profile.
class OpScope {
 public:
  OpScope(OpProfile* profile, const char* name)
      : profile_(profile != nullptr && profile->is_on() ? profile : nullptr), name_(name) {
    if (profile_ != nullptr) begin_ = profile_->now();
  }
  ~OpScope() {
    if (profile_ != nullptr) profile_->add(name_, begin_, profile_->now(), work_);
  }
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

  bool is_recording() const { return profile_ != nullptr; }
  void add_work(double bytes, double operations) {
    work_.bytes += bytes;
    work_.operations += operations;
  }
  // The op is another's to do.
  void cancel() { profile_ = nullptr; }
  // The op begins here: what was done before was done for the profile. Only where is_recording().
  void begin_again() { begin_ = profile_->now(); }

 private:
  OpProfile* profile_;
  const char* name_;
  OpProfile::Moment begin_;
  OpWork work_;
};

}  // namespace chorale
