// The masks of structured output: how long a grammar takes to compile, a matcher to begin, and each mask of
// random walks through the grammar (mean, 99th percentile, longest). With the bundled tokenizer, and the real
// one of Qwen3 where scripts/fetch_qwen3_tokenizer.sh has put it.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include <benchmark/benchmark.h>
#include <time.h>

#include "base/error.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace chorale::bench {
namespace {

using text::GrammarKind;
using text::GrammarSource;

constexpr size_t kWalkTokens = 128;

struct Workload {
  const char* name;
  GrammarSource source;
};

const std::vector<Workload>& workloads() {
  static const std::vector<Workload> all = {
      {"json object", {GrammarKind::kJsonObject, ""}},
      {"schema", {GrammarKind::kJsonSchema, R"({"type": "object", "properties": {"name": {"type": "string"},
          "age": {"type": "integer", "minimum": 0, "maximum": 150}, "email": {"type": "string", "maxLength": 60},
          "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
          "address": {"type": "object", "properties": {"street": {"type": "string"}, "zip": {"type": "string",
          "pattern": "^[0-9]{5}$"}}, "required": ["street"]}}, "required": ["name", "age", "tags"]})"}},
      {"regex", {GrammarKind::kRegex, R"(([A-Z][a-z]{1,12} ){2,20}[0-9]{4}-[0-9]{2}-[0-9]{2})"}},
      {"gbnf", {GrammarKind::kEbnf, R"g(root ::= expr
          expr ::= term ([-+*/] term)*
          term ::= [0-9]+ | [a-z]+ | "(" expr ")")g"}},
      {"choice", {GrammarKind::kChoice, R"(["positive", "negative", "neutral"])"}},
  };
  return all;
}

struct Vocabulary {
  Vocabulary(const std::filesystem::path& folder, int64_t rows)
      : tokenizer(text::Tokenizer::load(folder)),
        eos(tokenizer.token_to_id("<|im_end|>").value()),
        compiler(tokenizer, rows, {{eos}}, {0, 0}) {}

  text::Tokenizer tokenizer;
  int32_t eos;
  text::GrammarCompiler compiler;  // keeps nothing
};

// Of this thread's processor, so that a busy machine does not show.
double processor_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::shared_ptr<const text::Grammar> compile(Vocabulary& vocabulary, const GrammarSource& source) {
  auto result = vocabulary.compiler.compile(source);
  if (const auto* error = std::get_if<RequestError>(&result)) throw_error("{}", error->message);
  return std::get<std::shared_ptr<const text::Grammar>>(std::move(result));
}

void compile_bench(benchmark::State& state, Vocabulary& vocabulary, const GrammarSource& source) {
  for (auto _ : state) benchmark::DoNotOptimize(compile(vocabulary, source));  // nothing is cached
}

void matcher_bench(benchmark::State& state, Vocabulary& vocabulary, const GrammarSource& source) {
  const auto grammar = compile(vocabulary, source);
  for (auto _ : state) text::GrammarMatcher matcher(grammar);
}

// A token that may come next and, where another may, does not end the text.
int32_t draw(const Vocabulary& vocabulary, const std::vector<uint32_t>& mask, std::mt19937& random) {
  std::vector<int32_t> allowed;
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint32_t bit = 0; mask[word] != 0 && bit < 32; ++bit) {
      if ((mask[word] >> bit & 1U) != 0) allowed.push_back(static_cast<int32_t>(word * 32 + bit));
    }
  }
  const int32_t id = allowed[random() % allowed.size()];
  if (id != vocabulary.eos) return id;
  return allowed[random() % allowed.size()];
}

// One iteration is one walk; the counters are of its single masks and accepted tokens, in microseconds.
void mask_bench(benchmark::State& state, Vocabulary& vocabulary, const GrammarSource& source) {
  const auto grammar = compile(vocabulary, source);
  std::vector<uint32_t> mask(vocabulary.compiler.mask_words());
  std::vector<double> masks;
  double accepting = 0;
  uint32_t seed = 0;
  for (auto _ : state) {
    std::mt19937 random(seed++);
    text::GrammarMatcher matcher(grammar);
    double total = 0;
    for (size_t i = 0; i < kWalkTokens && !matcher.is_finished(); ++i) {
      double begin = processor_seconds();
      if (const auto error = matcher.compute_mask(mask)) throw_error("{}", error->message);
      masks.push_back(processor_seconds() - begin);
      const int32_t id = draw(vocabulary, mask, random);
      begin = processor_seconds();
      benchmark::DoNotOptimize(matcher.accept(id));
      accepting += processor_seconds() - begin;
      total += masks.back();
    }
    state.SetIterationTime(total);
  }
  std::sort(masks.begin(), masks.end());
  double sum = 0;
  for (const double seconds : masks) sum += seconds;
  const auto count = static_cast<double>(masks.size());
  state.counters["mask_mean_us"] = 1e6 * sum / count;
  state.counters["mask_p99_us"] = 1e6 * masks[masks.size() * 99 / 100];
  state.counters["mask_max_us"] = 1e6 * masks.back();
  state.counters["accept_mean_us"] = 1e6 * accepting / count;
}

void add(const std::string& name, Vocabulary& vocabulary) {
  for (const Workload& workload : workloads()) {
    const auto named = [&](const char* what) { return name + "/" + workload.name + "/" + what; };
    const auto bind = [&](auto* function) {
      return [&vocabulary, &workload, function](benchmark::State& state) {
        function(state, vocabulary, workload.source);
      };
    };
    benchmark::RegisterBenchmark(named("compile").c_str(), bind(compile_bench))
        ->Unit(benchmark::kMicrosecond)
        ->MeasureProcessCPUTime();
    benchmark::RegisterBenchmark(named("matcher").c_str(), bind(matcher_bench))
        ->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(named("walk").c_str(), bind(mask_bench))
        ->Unit(benchmark::kMillisecond)
        ->UseManualTime();
  }
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  using namespace chorale;
  benchmark::Initialize(&argc, argv);
  const std::filesystem::path source = CHORALE_SOURCE_DIR;
  const auto bundled = std::make_unique<bench::Vocabulary>(source / "models/tales-moe", 4096);
  bench::add("bundled", *bundled);
  std::unique_ptr<bench::Vocabulary> qwen3;
  if (std::filesystem::exists(source / ".cache/qwen3-tokenizer/tokenizer.json")) {
    const double begin = bench::processor_seconds();
    qwen3 = std::make_unique<bench::Vocabulary>(source / ".cache/qwen3-tokenizer", 151936);
    fmt::print("the tokenizer of Qwen3 and its vocabulary for grammars: {:.2f} s\n",
               bench::processor_seconds() - begin);
    bench::add("qwen3", *qwen3);
  }
  benchmark::RunSpecifiedBenchmarks();
}
