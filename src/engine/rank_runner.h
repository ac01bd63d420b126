// One rank: its memory, its threads, and its part of the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/stream.h"
#include "base/thread_pool.h"
#include "engine/kv_moves.h"
#include "engine/model_runner.h"
#include "engine/parallel_plan.h"
#include "engine/rank_sampler.h"
#include "engine/step_recordings.h"
#include "io/model_config.h"
#include "model/kv_cache.h"
#include "model/qwen3_moe.h"
#include "model/step_inputs.h"
#include "model/weights.h"

namespace chorale::engine {

// Used by one thread at a time.
class RankRunner {
 public:
  struct Parts {
    const io::ModelConfig& config;
    const RankPart& part;
    model::ModelWeights weights;  // the rank's view; their memory must outlive the runner
    model::RankGroups groups;
    model::StepLimits limits;
    int64_t num_blocks = 0;  // of the KV cache
    DType kv_dtype = DType::bf16;
    Device device;
    InstructionSet isa = InstructionSet::portable;  // the CPU's alone, as are threads
    int num_threads = 1;
    bool records_steps = true;              // where the device can
    double step_timeout = 0;                // seconds that a device may take for a step; 0: any
    std::function<void()> watch = nullptr;  // while the host waits for the device, as Queue::set_watch has it
    OpProfile* profile = nullptr;
    comm::Traffic* traffic = nullptr;  // what the groups count into, also when recorded steps are given again
  };
  explicit RankRunner(Parts parts);

  // One step of this rank's data-parallel group; no group has more than `most_tokens`. Returns before another
  // device than the CPU has done it.
  void forward(const StepPlan& plan, int64_t most_tokens, model::StepObserver* observer = nullptr);
  // On the group's first rank, of the logits of the last step; as RankSampler has them.
  void start_sampling(const SamplePlan& plan);
  SampledStep collect();
  // Waits for all that was given to the device.
  void synchronize() { stream_.synchronize(); }
  // The logits of the last step, float32 [L, V], in memory of the host, on the group's first rank, nothing on
  // the others; valid until the next step.
  Tensor logits();

  // As Qwen3MoeModel has it.
  void place_experts(int64_t layer, const model::FeedForwardWeights& experts,
                     const model::ExpertSlots& slots);
  int64_t num_slot_variants(int64_t layer) const { return model_.num_slot_variants(layer); }

  // Some heads of a block that are copied here from the cache of another rank of this process.
  struct KvPiece {
    const RankRunner* from = nullptr;
    KvHeads heads;
  };
  // In all layers. Nothing may be under way on the other ranks. Returns when it is done.
  void copy_kv(std::span<const KvPiece> pieces);
  // Heads on their way between processes, in memory of the host: [rows, kv_row_bytes()], one row for each
  // head of each layer, piece after piece. export_kv() reads `from_block` and `from_head` of this rank's
  // cache, import_kv() writes `to_block` and `to_head`. Return when it is done.
  int64_t kv_row_bytes() const { return cache_.heads(0, 0, 1).columns(); }
  int64_t kv_rows(const KvHeads& heads) const { return heads.num_heads * cache_.heads(0, 0, 1).rows(); }
  void export_kv(std::span<const KvHeads> pieces, std::byte* rows);
  void import_kv(std::span<const KvHeads> pieces, std::byte* rows);

  // For tests: breaks the device, at the start of the next step at the earliest.
  void inject(DeviceFault fault);

  // Adds this rank's Qwen3MoeModel::expert_load to `total` [layers * E], which may be empty before. Between
  // steps.
  void add_expert_load(std::vector<int64_t>& total) const;

 private:
  // Then each op is given by itself.
  bool is_profiled() const { return stream_.profile() != nullptr && stream_.profile()->is_on(); }
  void place_sampled(const model::StepInputs& in);
  template <typename Copy>
  void copy_pieces(size_t count, const Copy& copy_piece);
  Tensor run_recorded(const StepShape& shape, const model::StepInputs& in);

  ThreadPool pool_;               // the CPU's
  std::unique_ptr<Queue> queue_;  // another device's
  Stream stream_;
  const int64_t max_table_blocks_;
  const bool records_steps_;
  model::StepBuffers inputs_;
  const comm::Communicator attention_group_;
  model::KvCache cache_;
  model::Qwen3MoeModel model_;
  std::optional<RankSampler> sampler_;        // on the group's first rank
  std::optional<Arena> placed_memory_;        // likewise, in a group of several
  Tensor placed_ids_;                         // int32 [1, most tokens], in it
  Tensor logits_;                             // of the last step, on the device
  std::optional<Arena> host_memory_;          // absent where the host may read the device's memory
  Tensor host_logits_;                        // float32 [L, V], in it
  std::vector<model::HostSegment> segments_;  // with room for every step
  comm::Traffic* const traffic_;
  StepRecordings recordings_;
};

}  // namespace chorale::engine
