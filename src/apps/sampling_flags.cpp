#include "apps/sampling_flags.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "apps/command.h"
#include "apps/foreign_flags.h"

namespace chorale::apps {

engine::SamplingParams sampling_params(const SamplingFlags& flags, const io::GenerationDefaults& defaults) {
  engine::SamplingParams params;
  const bool greedy = defaults.do_sample.has_value() && !*defaults.do_sample;
  params.temperature = flags.temperature.value_or(greedy ? 0.0 : defaults.temperature.value_or(1.0));
  params.top_p = flags.top_p.value_or(defaults.top_p.value_or(params.top_p));
  params.top_k = flags.top_k.value_or(defaults.top_k.value_or(params.top_k));
  params.min_p = defaults.min_p.value_or(params.min_p);
  params.repetition_penalty = defaults.repetition_penalty.value_or(params.repetition_penalty);
  if (flags.seed) params.seed = static_cast<uint64_t>(*flags.seed);
  params.ignore_eos = flags.ignore_eos;
  return params;
}

void add_sampling_flags(CLI::App& app, SamplingFlags& flags, const std::string& default_length) {
  constexpr const char* kGroup = "Sampling";
  app.add_option(with_aliases("--max-new-tokens"), flags.max_new_tokens,
                 fmt::format("Most tokens of an answer ({})", default_length))
      ->option_text("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->group(kGroup);
  app.add_option(with_aliases("--temperature"), flags.temperature,
                 "0: always the most likely token; default: the model's")
      ->option_text("T")
      ->check(number_in(0, 1e6))
      ->group(kGroup);
  app.add_option("--top-p", flags.top_p,
                 "Sample from the likeliest tokens that sum up to P; default: the model's")
      ->option_text("P")
      ->check([](const std::string& text) {
        double p = 0;
        const bool is_share = CLI::detail::lexical_cast(text, p) && p > 0 && p <= 1;
        return is_share ? std::string() : fmt::format("top_p must be above 0 and at most 1, but is {}", text);
      })
      ->group(kGroup);
  app.add_option("--top-k", flags.top_k, "Sample from the K likeliest tokens, 0: all; default: the model's")
      ->option_text("K")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 31))
      ->group(kGroup);
  app.add_option("--seed", flags.seed, "The same seed gives the same text; default: a fresh one")
      ->option_text("S")
      ->group(kGroup);
  app.add_option("--stop", flags.stop, "Stop before this text; may be given more than once")
      ->option_text("TEXT")
      ->allow_extra_args(false)
      ->check([](const std::string& text) { return text.empty() ? "a stop text must not be empty" : ""; })
      ->group(kGroup);
  app.add_flag("--ignore-eos", flags.ignore_eos, "Go on after the model's end-of-sequence tokens")
      ->group(kGroup);
}

}  // namespace chorale::apps
