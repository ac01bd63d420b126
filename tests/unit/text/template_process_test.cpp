#include "text/template_process.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chorale::text {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr RenderingLimits kSmall{.processor_time = std::chrono::milliseconds(200), .memory = 64 << 20};

TemplateSources sources_of(std::string source, RenderingLimits limits = {}) {
  return {.kind = TemplateSources::Kind::source, .texts = {std::move(source), "", ""}, .limits = limits};
}

// What is wrong when the template is read, or when it is rendered.
std::string error_of(const TemplateSources& sources, std::string_view variables = "{}") {
  std::string error;
  const auto processes = TemplateProcesses::load(sources, error);
  if (processes == nullptr) return error;
  const Rendering rendering = processes->render(variables);
  EXPECT_FALSE(rendering.done) << rendering.text.size() << " bytes";
  return rendering.text;
}

// The step, so many times, from a list of two numbers on.
std::string repeated(std::string_view step, int times, std::string_view after) {
  return fmt::format(
      "{{% set ns = namespace(x=[1, 2]) %}}{{% for i in range({}) %}}{{% set ns.x = {} %}}{{% endfor %}}{}",
      times, step, after);
}

// What the crate's count of steps does not see: values that share their parts, and are endless to walk over.
TEST(TemplateProcesses, BoundTimeWhateverTheTemplateDoes) {
  for (const std::string& source :
       {repeated("ns.x + ns.x", 60, "{{ ns.x | length }}"), repeated("[ns.x, ns.x]", 60, "{{ ns.x }}")}) {
    EXPECT_THAT(error_of(sources_of(source, kSmall)), HasSubstr("more than 0.2 s of a processor's time"))
        << source;
  }
}

TEST(TemplateProcesses, BoundMemory) {
  // A text of 100 MB.
  const std::string large =
      "{% set ns = namespace(s='a' * 100000) %}{% for i in range(10) %}{% set ns.s = ns.s ~ ns.s %}{% endfor "
      "%}"
      "{{ ns.s | length }}";
  EXPECT_THAT(error_of(sources_of(large, kSmall)), HasSubstr("more than 64 MiB of memory"));
  std::string error;
  EXPECT_TRUE(TemplateProcesses::load(sources_of(large), error)->render("{}").done) << error;
}

TEST(TemplateProcesses, GoOnAfterOneThatWasEnded) {
  std::string error;
  const auto processes = TemplateProcesses::load(
      sources_of("{% if bad %}" + repeated("ns.x + ns.x", 60, "{{ ns.x | length }}") + "{% endif %}fine",
                 kSmall),
      error);
  ASSERT_NE(processes, nullptr) << error;
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(processes->render(R"({"bad": true})").done);
    const Rendering next = processes->render(R"({"bad": false})");
    EXPECT_TRUE(next.done);
    EXPECT_EQ(next.text, "fine");
  }
}

TEST(TemplateProcesses, TakeLargeTextsFromManyThreads) {
  std::string error;
  const auto processes = TemplateProcesses::load(sources_of("{{ text }}"), error);
  ASSERT_NE(processes, nullptr) << error;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&processes, t] {
      const std::string text(size_t{3} << 20, static_cast<char>('a' + t));
      for (int i = 0; i < 3; ++i) {
        const Rendering rendering = processes->render(R"({"text": ")" + text + R"("})");
        EXPECT_TRUE(rendering.done);
        EXPECT_EQ(rendering.text, text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TemplateProcesses, TellWhetherThereIsATemplate) {
  std::string error = "before";
  const TemplateSources none{.kind = TemplateSources::Kind::files, .texts = {{}, {}, "{}"}, .limits = {}};
  EXPECT_EQ(TemplateProcesses::load(none, error), nullptr);
  EXPECT_THAT(error, IsEmpty());
  EXPECT_EQ(TemplateProcesses::load(sources_of("{% if %}"), error), nullptr);
  EXPECT_THAT(error, HasSubstr("syntax error"));
}

}  // namespace
}  // namespace chorale::text
