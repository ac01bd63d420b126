// The requests of a benchmark: those to measure, and those to warm the server up with.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "tools/bench_serve/requests.h"

namespace chorale::bench_serve {

struct WorkloadOptions {
  std::filesystem::path sharegpt_file;  // empty: random prompts
  int64_t num_prompts = 1000;
  int64_t warmup_requests = 1;
  uint64_t seed = 1;

  int64_t random_input_tokens = 1024;
  int64_t random_output_tokens = 1024;
  double random_range_ratio = 0;

  int64_t sharegpt_output_tokens = 0;  // as ShareGptShape has them
  int64_t sharegpt_context_tokens = 0;
};

struct Workload {
  std::vector<Request> requests;
  std::vector<Request> warmup;
  bool warmup_is_apart = true;  // its prompts are none of `requests`
  std::string description;      // for people
  std::vector<std::string> notes;
};

// With a tokenizer, random prompts are texts; without one, which is a null pointer, they are ids, and
// vocab_size is called for how many there are. Warm-up requests have short answers, and prompts of their own
// where the dataset has enough, so that they leave nothing of the others in a prefix cache. Throws Error for
// an unusable file or tokenizer.
Workload make_workload(const WorkloadOptions& options, const text::Tokenizer* tokenizer,
                       const std::function<int64_t()>& vocab_size);

}  // namespace chorale::bench_serve
