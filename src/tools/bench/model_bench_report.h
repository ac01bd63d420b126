// The results of a model's benchmark as text, Markdown, JSON, and a trace.
#pragma once

#include <span>
#include <string>

#include "tools/bench/model_bench.h"
#include "tools/machine.h"

namespace chorale::bench {

struct ModelBenchReport {
  std::string version;                     // the program's
  std::string model;                       // a preset or a folder
  std::string device, device_description;  // engine::ModelInfo's
  std::string dtype, quantization, kv_cache_dtype, instruction_set, strategy;
  int threads = 1;  // each rank's
  tools::Machine machine;
  double load_seconds = 0;
  uint64_t weight_bytes = 0;
  uint64_t peak_memory = 0;  // this process's, in bytes
  std::vector<StepResult> results;
};

enum class TableForm { text, markdown };
std::string to_table(const ModelBenchReport& report, TableForm form);
std::string to_json(const ModelBenchReport& report);

// Where the time of the steps that have ops went: one table for each step.
std::string profile_tables(const ModelBenchReport& report, TableForm form);

// Chrome's trace event format (chrome://tracing, Perfetto): the ops of each step, one after the other.
// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
std::string to_chrome_trace(const ModelBenchReport& report);

}  // namespace chorale::bench
