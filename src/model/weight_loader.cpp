#include "model/weight_loader.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"
#include "base/math.h"
#include "base/random.h"
#include "io/linear_source.h"
#include "kernels/packed_matrix.h"

namespace chorale::model {
namespace {

constexpr int64_t kRowsPerTask = 4096;  // of the embedding

// The part of a slot that one task fills: a chunk of a packed matrix, or a range of rows. Units are counted
// from the first that is stored.
struct LoadTask {
  const WeightSlot* slot = nullptr;
  int64_t unit = 0;
  int64_t num_units = 1;
};

int64_t units_of(const WeightSlot& slot) {
  switch (slot.form) {
    case WeightSlot::Form::vector:
      return 1;
    case WeightSlot::Form::rows:
      return ceil_div(slot.part.size(), kRowsPerTask);
    case WeightSlot::Form::packed:
      return slot.part.size();
  }
  return 1;
}

int64_t elements_of(const WeightSlot& slot) {
  int64_t n = 1;
  for (const int64_t size : slot.shape) n *= size;
  return n;
}

// How many elements of the tensor are stored.
int64_t stored_elements(const WeightSlot& slot) {
  switch (slot.form) {
    case WeightSlot::Form::vector:
      return slot.part.size();
    case WeightSlot::Form::rows:
      return slot.part.size() * slot.shape[1];
    case WeightSlot::Form::packed:
      return elements_of(slot) / (slot.layout.n_chunks * slot.layout.k_chunks) * slot.part.size();
  }
  return 0;
}

// Whether the slot can take the integers of the source's own groups.
bool keeps_int4(const WeightSlot& slot, const io::LinearSource& source) {
  return slot.form == WeightSlot::Form::packed && slot.layout.format == WeightFormat::int4 &&
         source.is_int4() && source.groups_in_order() && source.group_size() % slot.layout.group_k == 0 &&
         slot.layout.chunk_k() % slot.layout.group_k == 0;
}

// The stored chunk of a packed slot that a task fills, and where it lies in the whole tensor.
struct TaskChunk {
  PackedLayout layout;  // of the chunks that are stored
  int64_t first_row, first_column;

  explicit TaskChunk(const WeightSlot& slot) : layout(slice_layout(slot.layout, slot.part.size())) {
    const bool by_output = slot.layout.n_chunks > 1;
    first_row = by_output ? slot.part.begin * slot.layout.chunk_n() : 0;
    first_column = by_output ? 0 : slot.part.begin * slot.layout.chunk_k();
  }
};

// Fills the part from a reader of elements; returns how many are NaN.
int64_t fill(const LoadTask& task, DType dtype, std::byte* base, const ElementReader& read) {
  const WeightSlot& slot = *task.slot;
  std::byte* target = base + slot.offset;
  switch (slot.form) {
    case WeightSlot::Form::vector:
      return read(0, slot.part.begin, slot.part.size(), target);
    case WeightSlot::Form::rows: {
      const int64_t columns = slot.shape[1];
      const int64_t end = std::min(slot.part.size(), (task.unit + 1) * kRowsPerTask);
      int64_t nans = 0;
      for (int64_t row = task.unit * kRowsPerTask; row < end; ++row) {
        std::byte* to = target + row * columns * static_cast<int64_t>(size_of(dtype));
        nans += read(slot.part.begin + row, 0, columns, to);
      }
      return nans;
    }
    case WeightSlot::Form::packed: {
      const TaskChunk chunk(slot);
      return pack_chunk(
          [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
            return read(chunk.first_row + row, chunk.first_column + column, count, out);
          },
          chunk.layout, target, task.unit, slot.half);
    }
  }
  return 0;
}

// Of the elements that the slot's reader writes.
DType target_dtype(const WeightSlot& slot, DType dtype) {
  if (slot.form == WeightSlot::Form::packed) return element_dtype(slot.layout.format);
  return slot.form == WeightSlot::Form::vector ? DType::f32 : dtype;
}

// Fills the part from a checkpoint: as it lies there where it can be, else element by element.
int64_t fill_from(const io::LinearSource& source, const LoadTask& task, DType dtype, std::byte* base) {
  const WeightSlot& slot = *task.slot;
  if (keeps_int4(slot, source)) {
    const TaskChunk chunk(slot);
    pack_int4_chunk(
        [&](int64_t row, int64_t column, int64_t count, Int4Group& group) {
          row += chunk.first_row;
          column += chunk.first_column;
          group.scale = source.scale(row, column);
          group.zero = static_cast<float>(source.zero(row, column));
          source.read_values(row, column, count, group.values);
        },
        chunk.layout, base + slot.offset, task.unit, slot.half);
    return 0;
  }
  if (slot.form == WeightSlot::Form::packed && source.is_plain()) {
    const TaskChunk chunk(slot);
    const io::TensorEntry& tensor = *source.tensors().weight;
    const int64_t first = chunk.first_row * source.columns() + chunk.first_column;
    return pack_chunk(
        SourceMatrix{.data = tensor.bytes.data() + first * static_cast<int64_t>(size_of(tensor.dtype)),
                     .dtype = tensor.dtype,
                     .rows = chunk.layout.n,
                     .columns = chunk.layout.k,
                     .row_stride = source.columns()},
        chunk.layout, base + slot.offset, task.unit, slot.half);
  }
  const DType element = target_dtype(slot, dtype);
  return fill(task, dtype, base, [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
    return source.read(row, column, count, out, element);
  });
}

std::vector<LoadTask> make_tasks(const std::vector<const WeightSlot*>& slots) {
  std::vector<LoadTask> tasks;
  for (const WeightSlot* slot : slots) {
    const int64_t units = units_of(*slot);
    for (int64_t unit = 0; unit < units; ++unit) tasks.push_back({slot, unit, units});
  }
  return tasks;
}

// Bytes of the source that count for the task, so that a slot's tasks add up to the whole.
uint64_t share(uint64_t bytes, const LoadTask& task) {
  const auto n = static_cast<uint64_t>(task.num_units);
  return bytes / n + (task.unit == 0 ? bytes % n : 0);
}

// Tensors that a checkpoint may have although the model does not read them.
bool may_be_ignored(const io::Checkpoint& checkpoint, const io::TensorEntry& tensor,
                    const io::ModelConfig& config) {
  const std::string_view name = tensor.name;
  if (name.ends_with(".rotary_emb.inv_freq")) return true;  // written by old versions of transformers
  if (io::is_unused_bias(checkpoint, config.quantization, tensor)) return true;
  return config.tie_word_embeddings && name == "lm_head.weight";
}

// What part of the whole tensor is stored, of `bytes`.
uint64_t stored_share(const WeightSlot& slot, uint64_t bytes) {
  const auto whole = static_cast<uint64_t>(elements_of(slot));
  const auto part = static_cast<uint64_t>(stored_elements(slot));
  if (bytes % whole == 0) return bytes / whole * part;
  return static_cast<uint64_t>(static_cast<double>(bytes) * static_cast<double>(part) /
                               static_cast<double>(whole));
}

// Asks for the bytes of slots before they are needed, so that the disk reads while others are packed.
class ReadAhead {
 public:
  ReadAhead(const io::Checkpoint& checkpoint, const io::QuantizationConfig& quantization,
            const std::vector<const WeightSlot*>& slots)
      : checkpoint_(checkpoint) {
    for (size_t i = 0; i < slots.size(); ++i) {
      place_[slots[i]] = i;
      // Of a tensor of which other processes store the most, a part is read, here and there.
      const bool whole = stored_elements(*slots[i]) == elements_of(*slots[i]);
      tensors_.push_back(whole ? io::find_linear(checkpoint, quantization, slots[i]->name)
                               : io::LinearTensors());
    }
  }

  // A task of this slot begins.
  void reach(const WeightSlot* slot) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return;  // another thread asks
    for (const size_t reached = place_.at(slot); passed_ < reached; ++passed_) {
      if (passed_ < asked_) ahead_ -= tensors_[passed_].bytes();
    }
    asked_ = std::max(asked_, passed_);
    for (; asked_ < tensors_.size() && ahead_ < kMostAhead; ++asked_) {
      for (const io::TensorEntry* tensor : tensors_[asked_].all())
        if (tensor != nullptr) checkpoint_.will_need(*tensor);
      ahead_ += tensors_[asked_].bytes();
    }
  }

 private:
  static constexpr uint64_t kMostAhead = uint64_t{256} << 20;

  const io::Checkpoint& checkpoint_;
  std::vector<io::LinearTensors> tensors_;
  std::map<const WeightSlot*, size_t> place_;
  std::mutex mutex_;
  size_t passed_ = 0, asked_ = 0;  // slots
  uint64_t ahead_ = 0;             // bytes asked for, of slots that are not passed
};

}  // namespace

void check_tensors(const io::Checkpoint& checkpoint, const io::ModelConfig& config) {
  const WeightPlan plan = plan_weights(config, DType::bf16, whole_model(config));
  const std::string path = checkpoint.path().string();
  std::set<const io::TensorEntry*> expected;
  for (const WeightSlot& slot : plan.slots) {
    const auto source = io::LinearSource::open(checkpoint, plan.quantization, slot.name, slot.shape);
    for (const io::TensorEntry* tensor : source.tensors().all()) expected.insert(tensor);
  }
  for (const io::TensorEntry& tensor : checkpoint.tensors()) {
    if (expected.contains(&tensor) || may_be_ignored(checkpoint, tensor, config)) continue;
    throw_error("{}: tensor \"{}\" in {}: not part of the model that config.json describes", path,
                tensor.name, tensor.file);
  }
}

uint64_t bytes_to_load(const io::Checkpoint& checkpoint, const WeightPlan& plan) {
  uint64_t bytes = 0;
  for (const WeightSlot& slot : plan.slots) {
    bytes += stored_share(slot, io::find_linear(checkpoint, plan.quantization, slot.name).bytes());
  }
  return bytes;
}

std::vector<std::string> load_weights(const io::Checkpoint& checkpoint, const WeightPlan& plan,
                                      std::byte* base, ThreadPool& pool, ProgressBar& progress) {
  // In the order of the files, which is how disks like to be read.
  std::vector<const WeightSlot*> slots;
  for (const WeightSlot& slot : plan.slots) slots.push_back(&slot);
  std::map<const WeightSlot*, const io::TensorEntry*> tensor_of;
  for (const WeightSlot* slot : slots)
    tensor_of[slot] = io::find_linear(checkpoint, plan.quantization, slot->name).weight;
  std::stable_sort(slots.begin(), slots.end(), [&](const WeightSlot* a, const WeightSlot* b) {
    return tensor_of.at(a) < tensor_of.at(b);  // entries of one table
  });
  const std::vector<LoadTask> tasks = make_tasks(slots);

  std::vector<std::atomic<int64_t>> tasks_left(checkpoint.tensors().size());
  std::vector<std::atomic<int64_t>> nans(checkpoint.tensors().size());
  const auto index_of = [&](const io::TensorEntry* tensor) {
    return static_cast<size_t>(tensor - checkpoint.tensors().data());
  };
  for (const LoadTask& task : tasks) ++tasks_left[index_of(tensor_of.at(task.slot))];

  ReadAhead reader(checkpoint, plan.quantization, slots);
  pool.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const LoadTask& task = tasks[static_cast<size_t>(i)];
    const auto source =
        io::LinearSource::open(checkpoint, plan.quantization, task.slot->name, task.slot->shape);
    reader.reach(task.slot);
    const size_t tensor = index_of(source.tensors().weight);
    nans[tensor] += fill_from(source, task, plan.dtype, base);
    progress.add(share(stored_share(*task.slot, source.bytes()), task));
    if (--tasks_left[tensor] == 0) source.release();
  });

  std::vector<std::string> names;
  for (const io::TensorEntry& tensor : checkpoint.tensors()) {
    if (nans[index_of(&tensor)] > 0) names.push_back(tensor.name);
  }
  return names;
}

namespace {

// Eight values of 16 random bits come from one call of the generator.
constexpr int64_t kValuesPerBlock = 8;
constexpr float kRange = 0.0346410F;  // sqrt(3) * 0.02: the bound of a uniform distribution of that deviation

uint32_t hash_name(std::string_view name) {  // FNV-1a
  uint32_t hash = 2166136261U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return hash;
}

class RandomTensor {
 public:
  RandomTensor(uint64_t seed, const WeightSlot& slot)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        name_hash_(hash_name(slot.name)),
        columns_(slot.shape.back()),
        is_norm_(slot.name.ends_with("norm.weight")) {}

  // Elements of a row as bf16 or float32. The values are rounded to bf16 in both, so that the two modes
  // compute the same model.
  template <typename Element>
  void read(int64_t row, int64_t column, int64_t count, Element* out) const {
    int64_t i = row * columns_ + column;
    const int64_t end = i + count;
    while (i < end) {
      const auto block = static_cast<uint64_t>(i / kValuesPerBlock);
      const auto bits =
          philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), name_hash_, 0}, key_);
      for (int64_t lane = i % kValuesPerBlock; lane < kValuesPerBlock && i < end; ++lane, ++i) {
        const uint32_t half = (bits[static_cast<size_t>(lane / 2)] >> (lane % 2 * 16)) & 0xFFFFU;
        const float value = (static_cast<float>(half) - 32767.5F) / 32767.5F * kRange;
        const bf16 rounded = to_bf16(is_norm_ ? 1.0F + value : value);
        if constexpr (std::is_same_v<Element, bf16>)
          *out++ = rounded;
        else
          *out++ = to_float(rounded);
      }
    }
  }

 private:
  PhiloxKey key_;
  uint32_t name_hash_;
  int64_t columns_;
  bool is_norm_;
};

}  // namespace

void fill_random_weights(const WeightPlan& plan, uint64_t seed, std::byte* base, ThreadPool& pool,
                         ProgressBar& progress) {
  std::vector<const WeightSlot*> slots;
  for (const WeightSlot& slot : plan.slots) slots.push_back(&slot);
  const std::vector<LoadTask> tasks = make_tasks(slots);
  pool.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const LoadTask& task = tasks[static_cast<size_t>(i)];
    const RandomTensor tensor(seed, *task.slot);
    const DType dtype = target_dtype(*task.slot, plan.dtype);
    fill(task, plan.dtype, base, [&](int64_t row, int64_t column, int64_t count, std::byte* out) -> int64_t {
      if (dtype == DType::bf16)
        tensor.read(row, column, count, reinterpret_cast<bf16*>(out));
      else
        tensor.read(row, column, count, reinterpret_cast<float*>(out));
      return 0;
    });
    progress.add(share(static_cast<uint64_t>(stored_elements(*task.slot)) * size_of(dtype), task));
  });
}

}  // namespace chorale::model
