// What the ops of a step took: one record for each call of an op on a stream that has a profile.
//
// The time is the caller's: an op of the CPU is finished when its call returns.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <vector>

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
  // Records from here on, beginning anew.
  void start() {
    records_.clear();
    is_on_ = true;
  }
  void stop() { is_on_ = false; }
  bool is_on() const { return is_on_; }
  std::span<const OpRecord> records() const { return records_; }
  void add(const OpRecord& record) { records_.push_back(record); }

 private:
  std::vector<OpRecord> records_;
  bool is_on_ = false;
};

// Records the op that runs while it lives, and costs one comparison when there is no profile.
class OpScope {
 public:
  OpScope(OpProfile* profile, const char* name)
      : profile_(profile != nullptr && profile->is_on() ? profile : nullptr) {
    if (profile_ == nullptr) return;
    record_.name = name;
    record_.begin = std::chrono::steady_clock::now();
  }
  ~OpScope() {
    if (profile_ == nullptr) return;
    record_.end = std::chrono::steady_clock::now();
    profile_->add(record_);
  }
  OpScope(const OpScope&) = delete;
  OpScope& operator=(const OpScope&) = delete;

  bool is_recording() const { return profile_ != nullptr; }
  void add_work(double bytes, double operations) {
    record_.work.bytes += bytes;
    record_.work.operations += operations;
  }

 private:
  OpProfile* profile_;
  OpRecord record_;
};

}  // namespace chorale
