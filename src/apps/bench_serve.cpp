// chorale bench serve: puts a load on a running server and tells how it held up.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "apps/command.h"
#include "apps/report_files.h"
#include "base/error.h"
#include "base/file_limit.h"
#include "base/log.h"
#include "base/progress_bar.h"
#include "text/tokenizer.h"
#include "tools/bench_serve/arrivals.h"
#include "tools/bench_serve/report.h"
#include "tools/bench_serve/server_facts.h"
#include "tools/bench_serve/token_counts.h"
#include "tools/bench_serve/workload.h"

namespace chorale::apps {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 24;  // in a prompt, and in an answer
constexpr uint64_t kOtherFiles = 64;              // open beside the connections
constexpr size_t kShownErrors = 5;

struct BenchServeFlags {
  std::string base_url;
  std::string host = "127.0.0.1";
  int port = 30000;
  std::string api_key;
  std::string endpoint = "completions";
  std::string extra_body;
  bool disable_ignore_eos = false;
  bool flush_cache = false;
  double timeout = 6 * 3600;

  std::string dataset = "random";
  std::filesystem::path tokenizer;
  int64_t vocab_size = 0;  // 0: what the server tells
  bench_serve::WorkloadOptions workload;

  double request_rate = std::numeric_limits<double>::infinity();
  std::optional<int64_t> max_concurrency;

  std::filesystem::path output_file;
  bool output_details = false;
  std::filesystem::path html;
  bool json = false;
  std::string model;
  std::string version;
};

// What depends on more than one flag.
void check_flags(const BenchServeFlags& flags) {
  const bool has_tokenizer = !flags.tokenizer.empty();
  if (flags.dataset == "sharegpt") {
    if (flags.workload.sharegpt_file.empty())
      throw_error("--dataset-name sharegpt: --dataset-path is required");
    if (!has_tokenizer && flags.workload.sharegpt_output_tokens == 0)
      throw_error("--dataset-name sharegpt: give --tokenizer, or --sharegpt-output-len");
    if (!has_tokenizer && flags.workload.sharegpt_context_tokens > 0)
      throw_error("--sharegpt-context-len: tokens can only be counted with --tokenizer");
  } else if (!flags.workload.sharegpt_file.empty()) {
    throw_error("--dataset-path: only --dataset-name sharegpt reads a file");
  } else if (flags.endpoint == "chat" && !has_tokenizer) {
    throw_error("--endpoint chat takes texts: --dataset-name random then needs --tokenizer");
  }
  if (!flags.output_file.empty()) check_report_file("--output-file", flags.output_file);
  if (!flags.html.empty()) check_report_file("--html", flags.html);
}

bench_serve::Url server_url(const BenchServeFlags& flags) {
  if (!flags.base_url.empty()) return bench_serve::parse_url(flags.base_url, "--base-url");
  const bool is_ipv6 = flags.host.find(':') != std::string::npos;
  const std::string host = is_ipv6 ? "[" + flags.host + "]" : flags.host;
  return bench_serve::parse_url(fmt::format("{}:{}", host, flags.port), "--host");
}

void run_warmup(bench_serve::HttpClient& client, const bench_serve::Workload& workload,
                bench_serve::LoadOptions options) {
  if (workload.warmup.empty()) return;
  options.arrivals.assign(workload.warmup.size(), 0.0);
  options.on_finished = nullptr;
  const bench_serve::LoadResult result = run_load(client, workload.warmup, options);
  const auto& records = result.records;
  if (std::none_of(records.begin(), records.end(), [](const auto& record) { return record.ok(); }))
    throw_error("the warm-up failed at {}: {}", client.url().text(), log::escape(records.front().error));
}

void check_connections(const BenchServeFlags& flags, size_t requests) {
  const uint64_t files = raise_file_limit();
  const uint64_t most =
      flags.max_concurrency ? static_cast<uint64_t>(*flags.max_concurrency) : uint64_t{requests};
  if (std::min<uint64_t>(most, requests) + kOtherFiles > files)
    log::warn("this process may open {} files, fewer than {} connections need; give --max-concurrency", files,
              most);
}

void print_errors(const bench_serve::Report& report) {
  if (report.errors.empty()) return;
  fmt::print(stderr, "{} of {} requests failed; the first errors:\n", report.metrics.failed, report.requests);
  for (const auto& error : report.errors)
    fmt::print(stderr, "  {} x {}\n", error.count, log::escape(error.message));
}

void write_results(const BenchServeFlags& flags, const bench_serve::Report& report,
                   const bench_serve::LoadResult& load) {
  const std::span<const bench_serve::RequestRecord> records = load.records;
  const auto details = flags.output_details ? records : records.first(0);
  if (!flags.output_file.empty())
    write_report_file(flags.output_file, report_json(report, details, 2) + "\n");
  if (!flags.html.empty()) write_report_file(flags.html, report_html(report));
  fmt::print("{}", flags.json ? report_json(report, details, -1) + "\n" : report_text(report));
  std::fflush(stdout);
  print_errors(report);
}

bench_serve::LoadOptions load_options(const BenchServeFlags& flags, bench_serve::HttpClient& client) {
  bench_serve::LoadOptions options;
  options.form = {
      .endpoint = flags.endpoint == "chat" ? bench_serve::Endpoint::chat : bench_serve::Endpoint::completions,
      .model = flags.model.empty() ? bench_serve::first_model(client) : flags.model,
      .ignore_eos = !flags.disable_ignore_eos};
  if (!flags.extra_body.empty()) options.form.extra = nlohmann::json::parse(flags.extra_body);
  options.max_concurrency = flags.max_concurrency;
  options.keep_text = !flags.tokenizer.empty();
  return options;
}

// Leaves the server as the measurement is to find it.
void prepare(const BenchServeFlags& flags, bench_serve::HttpClient& client, bench_serve::Workload& workload,
             const bench_serve::LoadOptions& options) {
  check_connections(flags, workload.requests.size());
  run_warmup(client, workload, options);
  if (flags.flush_cache) {
    bench_serve::flush_cache(client);
  } else if (!workload.warmup_is_apart) {
    workload.notes.emplace_back("The warm-up used prompts of the benchmark: the dataset has no others.");
  }
}

bench_serve::LoadResult measure(bench_serve::HttpClient& client, const bench_serve::Workload& workload,
                                bench_serve::LoadOptions options) {
  ProgressBar progress("Requests", workload.requests.size(), isatty(STDERR_FILENO) != 0, ProgressUnit::part);
  options.on_finished = [&] { progress.add(1); };
  return run_load(client, workload.requests, options);
}

int run_bench_serve(const BenchServeFlags& flags) {
  check_flags(flags);
  bench_serve::HttpClient client(server_url(flags), flags.api_key, bench_serve::Seconds(flags.timeout));
  std::optional<text::Tokenizer> loaded;
  if (!flags.tokenizer.empty()) loaded = text::Tokenizer::load(flags.tokenizer);
  const text::Tokenizer* tokenizer = loaded ? &*loaded : nullptr;

  bench_serve::LoadOptions options = load_options(flags, client);
  bench_serve::Workload workload = make_workload(flags.workload, tokenizer, [&] {
    return flags.vocab_size > 0 ? flags.vocab_size : bench_serve::vocabulary_size(client);
  });
  options.arrivals =
      bench_serve::arrival_times(std::ssize(workload.requests), flags.request_rate, flags.workload.seed);
  prepare(flags, client, workload, options);
  bench_serve::LoadResult load = measure(client, workload, options);
  for (std::string& note : settle_counts(load.records, workload.requests, tokenizer))
    workload.notes.push_back(std::move(note));
  bench_serve::Metrics metrics = compute_metrics(load);
  if (metrics.without_text > 0)
    workload.notes.push_back(
        fmt::format("{} answers had no text, so they have no TTFT, TPOT and ITL.", metrics.without_text));

  const bench_serve::Report report{.version = flags.version,
                                   .date = tools::utc_now(),
                                   .machine = tools::this_machine(),
                                   .server = client.url().text(),
                                   .model = options.form.model,
                                   .endpoint = flags.endpoint,
                                   .dataset = flags.dataset,
                                   .workload = workload.description,
                                   .requests = std::ssize(workload.requests),
                                   .request_rate = flags.request_rate,
                                   .max_concurrency = flags.max_concurrency,
                                   .seed = flags.workload.seed,
                                   .notes = workload.notes,
                                   .metrics = std::move(metrics),
                                   .errors = bench_serve::first_errors(load.records, kShownErrors)};
  write_results(flags, report, load);
  return report.metrics.completed > 0 ? 0 : 1;
}

std::string check_json_object(const std::string& text) {
  return nlohmann::json::parse(text, nullptr, false).is_object() ? "" : "expected a JSON object";
}

std::string check_rate(const std::string& text) {
  double rate = 0;
  return CLI::detail::lexical_cast(text, rate) && rate > 0 ? "" : "expected a number above 0, or inf";
}

void add_server_flags(CLI::App& app, BenchServeFlags& flags) {
  constexpr const char* kGroup = "Server";
  auto* url = app.add_option("--base-url", flags.base_url, "Address, in place of --host and --port")
                  ->option_text("URL")
                  ->group(kGroup);
  app.add_option("--host", flags.host, "Its host (127.0.0.1)")
      ->option_text("HOST")
      ->excludes(url)
      ->group(kGroup);
  app.add_option("--port", flags.port, "Its port (30000)")
      ->option_text("N")
      ->check(CLI::Range(1, 65535))
      ->excludes(url)
      ->group(kGroup);
  app.add_option("--model", flags.model, "Name to send; default: the first of /v1/models")
      ->option_text("NAME")
      ->group(kGroup);
  app.add_option("--api-key", flags.api_key,
                 "Sent as a bearer token; default: the environment's OPENAI_API_KEY")
      ->option_text("KEY")
      ->envname("OPENAI_API_KEY")
      ->group(kGroup);
  app.add_option("--endpoint", flags.endpoint, "/v1/completions or /v1/chat/completions (completions)")
      ->option_text("completions|chat")
      ->check(CLI::IsMember({"completions", "chat"}))
      ->group(kGroup);
  app.add_option("--extra-request-body", flags.extra_body, "Members for the body of every request")
      ->option_text("JSON")
      ->check(check_json_object)
      ->group(kGroup);
  app.add_flag("--disable-ignore-eos", flags.disable_ignore_eos,
               "Let answers end where the model ends them; ignore_eos is not sent")
      ->group(kGroup);
  app.add_option("--request-timeout", flags.timeout, "Seconds after which a request has failed (21600)")
      ->option_text("SECONDS")
      ->check(number_in(0.001, 1e6))
      ->group(kGroup);
}

void add_dataset_flags(CLI::App& app, BenchServeFlags& flags) {
  constexpr const char* kGroup = "Prompts";
  const auto add_count = [&](const char* name, int64_t& value, int64_t least, const char* text) {
    app.add_option(name, value, text)->option_text("N")->check(CLI::Range(least, kMaxTokens))->group(kGroup);
  };
  app.add_option("--dataset-name", flags.dataset, "Random tokens, or a file of conversations (random)")
      ->option_text("random|sharegpt")
      ->check(CLI::IsMember({"random", "sharegpt"}))
      ->group(kGroup);
  app.add_option("--dataset-path", flags.workload.sharegpt_file, "sharegpt: the file, JSON")
      ->option_text("FILE")
      ->group(kGroup);
  add_count("--num-prompts", flags.workload.num_prompts, 1, "Requests to measure (1000)");
  add_count("--random-input-len", flags.workload.random_input_tokens, 1,
            "random: tokens of a prompt, at most (1024)");
  add_count("--random-output-len", flags.workload.random_output_tokens, 1,
            "random: tokens of an answer, at most (1024)");
  app.add_option("--random-range-ratio", flags.workload.random_range_ratio,
                 "random: lengths are drawn from this share of them on; 1: always full length (0)")
      ->option_text("R")
      ->check(number_in(0, 1))
      ->group(kGroup);
  add_count("--sharegpt-output-len", flags.workload.sharegpt_output_tokens, 1,
            "sharegpt: tokens of each answer; default: as many as the reply in the file has");
  add_count("--sharegpt-context-len", flags.workload.sharegpt_context_tokens, 1,
            "sharegpt: leave out what is longer, prompt and answer together");
  app.add_option("--tokenizer", flags.tokenizer,
                 "Folder with the model's tokenizer.json; random prompts are then texts, not token ids")
      ->option_text("DIR")
      ->group(kGroup);
  add_count("--vocab-size", flags.vocab_size, 1,
            "random: draw token ids below N; default: what /get_model_info tells");
  app.add_option("--seed", flags.workload.seed, "Of prompts, lengths and arrivals (1)")
      ->option_text("S")
      ->group(kGroup);
}

void add_load_flags(CLI::App& app, BenchServeFlags& flags) {
  constexpr const char* kGroup = "Load";
  app.add_option("--request-rate", flags.request_rate,
                 "Requests per second, arriving as a Poisson process; inf: all at once (inf)")
      ->option_text("R|inf")
      ->check(check_rate)
      ->group(kGroup);
  app.add_option("--max-concurrency", flags.max_concurrency, "Most requests at a time; others wait here")
      ->option_text("N")
      ->check(CLI::Range(1, 1 << 20))
      ->group(kGroup);
  app.add_option("--warmup-requests", flags.workload.warmup_requests,
                 "Requests before, which do not count (1)")
      ->option_text("N")
      ->check(CLI::Range(0, 65536))
      ->group(kGroup);
  app.add_flag("--flush-cache", flags.flush_cache, "Empty the server's prefix cache after the warm-up")
      ->group(kGroup);
}

}  // namespace

Command add_bench_serve(CLI::App& bench, const std::string& version) {
  auto flags = std::make_shared<BenchServeFlags>();
  flags->version = version;
  CLI::App* app = bench.add_subcommand(
      "serve", "Put a load on a running server of OpenAI's API: latencies and throughput");
  add_server_flags(*app, *flags);
  add_dataset_flags(*app, *flags);
  add_load_flags(*app, *flags);
  app->add_option("--output-file", flags->output_file, "Write the results as JSON")
      ->option_text("FILE")
      ->group("Output");
  app->add_flag("--output-details", flags->output_details, "In the JSON, also the times of each request")
      ->group("Output");
  app->add_option("--html", flags->html, "Write a report with the distributions")
      ->option_text("FILE")
      ->group("Output");
  add_json_flag(*app, flags->json);
  return {app, [flags] { return run_bench_serve(*flags); }};
}

}  // namespace chorale::apps
