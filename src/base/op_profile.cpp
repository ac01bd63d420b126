#include "base/op_profile.h"

namespace chorale {

void OpProfile::start() {
  records_.clear();
  marks_.clear();
  is_on_ = true;
  start_ = std::chrono::steady_clock::now();
}

void OpProfile::stop() {
  is_on_ = false;
  if (marks_.empty()) return;
  const std::vector<double> seconds = queue_->take_marks();
  const auto time_of = [&](int64_t mark) {
    return start_ + std::chrono::duration_cast<TimePoint::duration>(
                        std::chrono::duration<double>(seconds[static_cast<size_t>(mark)]));
  };
  for (size_t i = 0; i < records_.size(); ++i) {
    records_[i].begin = time_of(marks_[i].begin);
    records_[i].end = time_of(marks_[i].end);
  }
  marks_.clear();
}

OpProfile::Moment OpProfile::now() const {
  if (queue_ == nullptr) return {.time = std::chrono::steady_clock::now(), .mark = 0};
  return {.time = {}, .mark = queue_->mark_time()};
}

void OpProfile::add(const char* name, const Moment& begin, const Moment& end, const OpWork& work) {
  records_.push_back({name, begin.time, end.time, work});
  if (queue_ != nullptr) marks_.push_back({begin.mark, end.mark});
}

}  // namespace chorale
