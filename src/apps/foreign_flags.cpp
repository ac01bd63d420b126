#include "apps/foreign_flags.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "apps/suggest.h"

namespace chorale::apps {
namespace {

struct Aliases {
  std::string_view flag;
  std::string_view others;  // separated by commas
};

constexpr auto kAliases = std::to_array<Aliases>({
    {"--model-path", "--model,-m"},
    {"--served-model-name", "--alias"},
    {"--context-length", "--max-model-len"},
    {"--max-running-requests", "--max-num-seqs"},
    {"--disable-radix-cache", "--no-enable-prefix-caching"},
    {"--disable-overlap-schedule", "--no-async-scheduling"},
    {"--chat-template", "--chat-template-file"},
    {"--prompt-file", "--file"},
    {"--max-new-tokens", "--max-tokens,--n-predict"},
    {"--temperature", "--temp"},
});

// What users of these programs write, and what does much the same here.
constexpr auto kForeignFlags = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"-a", "--served-model-name"},
    {"-c", "--context-length"},
    {"--ctx-size", "--context-length"},
    {"--n-ctx", "--context-length"},
    {"--max-seq-len", "--context-length"},
    {"--gpu-memory-utilization", "--mem-fraction-static"},
    {"--mem-fraction", "--mem-fraction-static"},
    {"-np", "--max-running-requests"},
    {"--parallel", "--max-running-requests"},
    {"--max-num-batched-tokens", "--chunked-prefill-size"},
    {"-b", "--chunked-prefill-size"},
    {"-ub", "--chunked-prefill-size"},
    {"--batch-size", "--chunked-prefill-size"},
    {"--ubatch-size", "--chunked-prefill-size"},
    {"-t", "--threads"},
    {"-ctk", "--kv-cache-dtype"},
    {"-ctv", "--kv-cache-dtype"},
    {"--cache-type-k", "--kv-cache-dtype"},
    {"--cache-type-v", "--kv-cache-dtype"},
    {"-q", "--quantization"},
    {"-tp", "--tp-size"},
    {"-dp", "--dp-size"},
    {"-ep", "--ep-size"},
    {"--enable-expert-parallel", "--enable-ep-moe"},
    {"--no-cache-prompt", "--disable-radix-cache"},
    {"--allowed-origins", "--cors-origins"},
    {"--timeout", "--body-timeout"},
    {"-p", "--prompt"},
    {"-f", "--prompt-file"},
    {"-n", "--max-new-tokens"},
    {"--predict", "--max-new-tokens"},
    {"-s", "--seed"},
    {"-sys", "--system-prompt"},
});

// Flags of these programs that have no counterpart, and why none is needed.
constexpr auto kNeedlessFlags = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"-ngl", "the whole model runs where --device says"},
    {"--n-gpu-layers", "the whole model runs where --device says"},
    {"--gpu-layers", "the whole model runs where --device says"},
    {"-fa", "attention has one implementation"},
    {"--flash-attn", "attention has one implementation"},
    {"-hf", "a model that \"hf download\" has fetched is found by its name, as ORG/NAME"},
    {"--hf-repo", "a model that \"hf download\" has fetched is found by its name, as ORG/NAME"},
    {"--trust-remote-code", "no code of a model is run"},
    {"--jinja", "the model's chat template is always used"},
    {"--enable-auto-tool-choice", "tools can always be called"},
    {"--tool-call-parser", "the chat template tells the form of tool calls"},
    {"--reasoning-parser", "reasoning is always told apart"},
    {"--enable-prefix-caching", "prefixes are always cached, but with --disable-radix-cache"},
    {"--async-scheduling", "steps are planned ahead where that pays, but with --disable-overlap-schedule"},
    {"--enable-chunked-prefill", "prefill is always chunked"},
    {"--cont-batching", "requests are always batched"},
    {"-cb", "requests are always batched"},
});

template <typename Table>
std::string_view find_in(const Table& table, std::string_view name) {
  const auto found = std::ranges::find(table, name, [](const auto& row) { return row.first; });
  return found == table.end() ? std::string_view() : found->second;
}

}  // namespace

std::string with_aliases(std::string_view flag) {
  const auto row = std::ranges::find(kAliases, flag, &Aliases::flag);
  return row == kAliases.end() ? std::string(flag) : fmt::format("{},{}", flag, row->others);
}

bool is_alias(std::string_view name) {
  return std::ranges::any_of(kAliases, [&](const Aliases& row) {
    for (std::string_view others = row.others; !others.empty();) {
      const size_t end = std::min(others.find(','), others.size());
      if (others.substr(0, end) == name) return true;
      others.remove_prefix(std::min(end + 1, others.size()));
    }
    return false;
  });
}

std::string flag_hint(std::string_view flag, std::span<const std::string> flags, std::string_view dashes) {
  const std::string_view here = find_in(kForeignFlags, flag);
  if (!here.empty() && std::ranges::find(flags, here.substr(2)) != flags.end())
    return fmt::format("; did you mean {}{}?", dashes, here.substr(2));
  if (const std::string_view why = find_in(kNeedlessFlags, flag); !why.empty())
    return fmt::format(", which is not needed: {}", why);
  const size_t name = std::min(flag.find_first_not_of('-'), flag.size());
  const std::optional<std::string> suggestion = nearest(flag.substr(name), flags);
  return suggestion ? fmt::format("; did you mean {}{}?", dashes, *suggestion) : "";
}

}  // namespace chorale::apps
