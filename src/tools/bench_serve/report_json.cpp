#include <cmath>

#include <nlohmann/json.hpp>

#include "tools/bench_serve/report.h"
#include "tools/machine_json.h"

namespace chorale::bench_serve {
namespace {

using Json = nlohmann::ordered_json;

Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

template <typename Value>
Json value_or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json();
}

void add_statistics(Json& json, const std::string& name, const std::optional<Statistics>& statistics) {
  const auto add = [&](const char* what, double Statistics::*member) {
    json[what + ("_" + name + "_ms")] = statistics ? Json((*statistics).*member) : Json();
  };
  add("mean", &Statistics::mean);
  add("median", &Statistics::median);
  add("std", &Statistics::standard_deviation);
  add("p90", &Statistics::p90);
  add("p95", &Statistics::p95);
  add("p99", &Statistics::p99);
  add("max", &Statistics::max);
}

Json record_json(const RequestRecord& record) {
  return {{"start", record.start},
          {"success", record.ok()},
          {"error", record.error},
          {"input_len", record.prompt_tokens},
          {"output_len", record.output_tokens},
          {"latency", record.latency},
          {"ttft", value_or_null(record.first_token)},
          {"itl", record.between}};
}

}  // namespace

nlohmann::ordered_json metrics_json(const Metrics& m) {
  Json json = {{"duration", m.duration},
               {"completed", m.completed},
               {"failed", m.failed},
               {"total_input_tokens", m.input_tokens},
               {"total_output_tokens", m.output_tokens},
               {"request_throughput", m.request_throughput},
               {"input_throughput", m.input_throughput},
               {"output_throughput", m.output_throughput},
               {"total_throughput", m.total_throughput},
               {"concurrency", m.concurrency},
               {"peak_concurrency", m.peak_concurrency}};
  add_statistics(json, "e2e_latency", m.e2e);
  add_statistics(json, "ttft", m.ttft);
  add_statistics(json, "tpot", m.tpot);
  add_statistics(json, "itl", m.itl);
  return json;
}

std::string report_json(const Report& report, std::span<const RequestRecord> records, int indent) {
  const Metrics& m = report.metrics;
  Json json = {{"backend", "openai-" + report.endpoint},
               {"server", report.server},
               {"model", report.model},
               {"dataset_name", report.dataset},
               {"workload", report.workload},
               {"num_prompts", report.requests},
               {"request_rate", number_or_null(report.request_rate)},
               {"max_concurrency", value_or_null(report.max_concurrency)},
               {"seed", report.seed}};
  json.update(metrics_json(m));
  json["errors"] = Json::array();
  for (const CountedError& error : report.errors)
    json["errors"].push_back({{"message", error.message}, {"count", error.count}});
  json["notes"] = report.notes;
  json["date"] = report.date;
  json["version"] = report.version;
  json["machine"] = tools::machine_json(report.machine);
  for (const RequestRecord& record : records) json["requests"].push_back(record_json(record));
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace chorale::bench_serve
