// A model built from the layers below the engine, for tests of the forward pass.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "base/copy.h"
#include "base/instruction_set.h"
#include "base/progress_bar.h"
#include "base/stream.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "io/model_config.h"
#include "kernels/backend.h"
#include "model/kv_cache.h"
#include "model/qwen3_moe.h"
#include "model/step_inputs.h"
#include "model/weight_loader.h"
#include "model/weights.h"
#include "source_dir.h"

namespace chorale::model {

inline std::filesystem::path bundled_model() {
  return source_dir() / "models" / "tales-moe";
}

struct Loaded {
  static constexpr int64_t kBlocks = 32;
  static constexpr int64_t kTokens = 768;

  static StepLimits limits() {
    return {.max_tokens = kTokens, .max_segments = 8, .max_table_blocks = 64, .max_logits_rows = kTokens};
  }

  Loaded(io::ModelConfig c, DType dtype, const io::Checkpoint* checkpoint,
         const std::string& device_name = "cpu")
      : config(std::move(c)),
        formats(dtype),
        driver(open_device(device_name)),
        queue(driver == nullptr ? nullptr : driver->make_queue()),
        stored(whole_model(config)),
        plan(plan_weights(config, on_device(formats, device_name), stored)),
        pool(2),
        weights(plan.bytes, device()),
        inputs(limits(), 1, 0, device()),
        cache(config, config.num_key_value_heads, dtype, kBlocks, device()) {
    ProgressBar progress("", plan.bytes, false);
    if (checkpoint != nullptr) {
      nan_tensors = load_weights(*checkpoint, plan, weights, pool, progress);
    } else {
      fill_random_weights(plan, 7, weights, pool, progress);
    }
    const parallel::Topology topology({}, 0);
    const auto placement =
        parallel::ExpertPlacement::trivial({.num_layers = static_cast<int>(config.num_hidden_layers),
                                            .num_experts = static_cast<int>(config.num_experts)});
    model = std::make_unique<Qwen3MoeModel>(
        stream(), RankModel{.config = config,
                            .weights = bind_weights(config, formats, stored, weights),
                            .limits = limits(),
                            .extent = rank_extent(config, topology, placement, limits()),
                            .groups = {},
                            .expert_slots = {}});
  }

  // The bundled model.
  static Loaded bundled(DType dtype, const std::string& device_name) {
    const io::Checkpoint checkpoint = io::Checkpoint::open(bundled_model());
    return Loaded(io::load_model_config(bundled_model()), dtype, &checkpoint, device_name);
  }

  Device device() const { return driver == nullptr ? Device() : Device(*driver); }
  Stream stream() {
    return queue == nullptr ? Stream(pool, available_instruction_sets().back()) : Stream(*queue);
  }

  // The logits of all tokens of one sequence, run in chunks.
  std::vector<float> logits(std::span<const int32_t> ids, int64_t chunk_size,
                            StepObserver* observer = nullptr) {
    std::vector<int32_t> table(kBlocks);
    std::iota(table.begin(), table.end(), 0);
    std::vector<float> all;
    const auto total = static_cast<int64_t>(ids.size());
    for (int64_t first = 0; first < total; first += chunk_size) {
      const int64_t count = std::min(chunk_size, total - first);
      std::vector<int32_t> wanted(static_cast<size_t>(count));
      std::iota(wanted.begin(), wanted.end(), 0);
      const HostSegment segment{
          .first_token = 0, .num_tokens = count, .first_position = first, .first_block = 0};
      const StepInputs in =
          inputs.upload(stream(), {.token_ids = ids.subspan(static_cast<size_t>(first), wanted.size()),
                                   .segments = {&segment, 1},
                                   .block_tables = table,
                                   .logits_tokens = wanted});
      const Tensor rows = model->forward(stream(), in, cache, observer);
      const std::vector<float> values = download<float>(stream(), rows);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

  io::ModelConfig config;
  WeightFormats formats;
  std::unique_ptr<DeviceDriver> driver;  // null: the CPU
  std::unique_ptr<Queue> queue;
  WeightShard stored;
  WeightPlan plan;
  ThreadPool pool;
  Buffer weights;
  StepBuffers inputs;
  KvCache cache;
  std::vector<std::string> nan_tensors;
  std::unique_ptr<Qwen3MoeModel> model;

 private:
  static const WeightFormats& on_device(WeightFormats& formats, const std::string& name) {
    formats.device = kind_of_device(name);
    return formats;
  }
};

}  // namespace chorale::model
