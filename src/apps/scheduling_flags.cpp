#include "apps/scheduling_flags.h"

#include <cstdint>
#include <string>

#include "apps/command.h"
#include "apps/foreign_flags.h"

namespace chorale::apps {

void add_scheduling_flags(CLI::App& app, engine::LoadOptions& load, engine::EngineOptions& engine,
                          bool& disable_radix_cache) {
  app.add_option("--max-total-tokens", load.max_total_tokens,
                 "Tokens that the KV cache holds; 0: sized from free memory")
      ->option_text("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group(kSchedulingGroup);
  app.add_option("--mem-fraction-static", load.mem_fraction,
                 "Share of the memory free after the weights that the KV cache gets (0.8)")
      ->option_text("F")
      ->check(number_in(0.01, 1))
      ->group(kSchedulingGroup);
  add_chunk_flag(app, load)->group(kSchedulingGroup);
  app.add_option(with_aliases("--max-running-requests"), load.max_running_requests,
                 "Most requests computed together (256)")
      ->option_text("N")
      ->check(CLI::Range(1, 65536))
      ->group(kSchedulingGroup);
  app.add_option(
         "--max-queued-requests", engine.max_queued_requests,
         "Most requests that wait, to be read or to be computed; beyond it they are refused with 503 (4096)")
      ->option_text("N")
      ->check(CLI::Range(1, 1 << 20))
      ->group(kSchedulingGroup);
  app.add_option_function<std::string>(
         "--schedule-policy",
         [&engine](const std::string& name) {
           engine.schedule_policy =
               name == "fcfs" ? engine::SchedulePolicy::fcfs : engine::SchedulePolicy::fair;
         },
         "Whose prompts come next: those of all requests in turns, or first come, first served (fair)")
      ->option_text("fair|fcfs")
      ->check(CLI::IsMember({"fair", "fcfs"}))
      ->group(kSchedulingGroup);
  app.add_flag(with_aliases("--disable-radix-cache"), disable_radix_cache,
               "Do not keep the KV of finished prompts for reuse")
      ->group(kSchedulingGroup);
}

}  // namespace chorale::apps
