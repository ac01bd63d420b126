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
#include "kernels/weight_writer.h"

namespace chorale::model {
namespace {

constexpr int64_t kEmbeddingRowsPerTask = 4096;

// The part of a place that one task fills: a chunk of a packed matrix, or a range of rows. Units are counted
// from the first that is stored.
struct LoadTask {
  const WeightPlace* place = nullptr;
  int64_t unit = 0;
  int64_t num_units = 1;
};

int64_t units_of(const WeightPlace& place) {
  switch (place.form) {
    case WeightPlace::Form::vector:
      return 1;
    case WeightPlace::Form::rows:
      return ceil_div(place.part.size(), kEmbeddingRowsPerTask);
    case WeightPlace::Form::packed:
      return place.part.size();
  }
  return 1;
}

int64_t elements_of(const WeightPlace& place) {
  int64_t n = 1;
  for (const int64_t size : place.shape) n *= size;
  return n;
}

// How many elements of the tensor are stored.
int64_t stored_elements(const WeightPlace& place) {
  switch (place.form) {
    case WeightPlace::Form::vector:
      return place.part.size();
    case WeightPlace::Form::rows:
      return place.part.size() * place.shape[1];
    case WeightPlace::Form::packed:
      return elements_of(place) / (place.layout.n_chunks * place.layout.k_chunks) * place.part.size();
  }
  return 0;
}

// Whether the place can take the integers of the source's own groups.
bool keeps_int4(const WeightPlace& place, const io::LinearSource& source) {
  return place.form == WeightPlace::Form::packed && place.layout.format == WeightFormat::int4 &&
         source.is_int4() && source.groups_in_order() && source.group_size() % place.layout.group_k == 0 &&
         place.layout.chunk_k() % place.layout.group_k == 0;
}

// The stored chunk of a packed place that a task fills, and where it lies in the whole tensor.
struct TaskChunk {
  WeightLayout layout;  // the stored chunks'
  int64_t first_row, first_column;

  explicit TaskChunk(const WeightPlace& place) : layout(slice_layout(place.layout, place.part.size())) {
    const bool by_output = place.layout.n_chunks > 1;
    first_row = by_output ? place.part.begin * place.layout.chunk_n() : 0;
    first_column = by_output ? 0 : place.part.begin * place.layout.chunk_k();
  }
};

// Fills the part from a reader of elements; returns how many are NaN.
int64_t fill(const LoadTask& task, DType dtype, WeightWriter& writer, const ElementReader& read) {
  const WeightPlace& place = *task.place;
  switch (place.form) {
    case WeightPlace::Form::vector:
      return writer.write_rows(
          [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
            return read(row, place.part.begin + column, count, out);
          },
          DType::f32, 1, place.part.size(), place.offset);
    case WeightPlace::Form::rows: {
      const int64_t columns = place.shape[1];
      const int64_t first = task.unit * kEmbeddingRowsPerTask;
      const int64_t end = std::min(place.part.size(), first + kEmbeddingRowsPerTask);
      return writer.write_rows(
          [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
            return read(place.part.begin + first + row, column, count, out);
          },
          dtype, end - first, columns, place.offset + static_cast<size_t>(first * columns) * size_of(dtype));
    }
    case WeightPlace::Form::packed: {
      const TaskChunk chunk(place);
      return writer.write_chunk(
          [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
            return read(chunk.first_row + row, chunk.first_column + column, count, out);
          },
          chunk.layout, place.offset, task.unit, place.half);
    }
  }
  return 0;
}

// What elements the place's reader writes.
DType target_dtype(const WeightPlace& place, DType dtype) {
  if (place.form == WeightPlace::Form::packed) return element_dtype(place.layout.format);
  return place.form == WeightPlace::Form::vector ? DType::f32 : dtype;
}

// Fills the part from a checkpoint: as it lies there where it can be, else element by element.
int64_t fill_from(const io::LinearSource& source, const LoadTask& task, DType dtype, WeightWriter& writer) {
  const WeightPlace& place = *task.place;
  if (keeps_int4(place, source)) {
    const TaskChunk chunk(place);
    writer.write_int4_chunk(
        [&](int64_t row, int64_t column, int64_t count, Int4Group& group) {
          row += chunk.first_row;
          column += chunk.first_column;
          group.scale = source.scale(row, column);
          group.zero = static_cast<float>(source.zero(row, column));
          source.read_values(row, column, count, group.values);
        },
        chunk.layout, place.offset, task.unit, place.half);
    return 0;
  }
  if (place.form == WeightPlace::Form::packed && source.is_plain()) {
    const TaskChunk chunk(place);
    const io::TensorEntry& tensor = *source.tensors().weight;
    const int64_t first = chunk.first_row * source.columns() + chunk.first_column;
    return writer.write_chunk(
        SourceMatrix{.data = tensor.bytes.data() + first * static_cast<int64_t>(size_of(tensor.dtype)),
                     .dtype = tensor.dtype,
                     .rows = chunk.layout.n,
                     .columns = chunk.layout.k,
                     .row_stride = source.columns()},
        chunk.layout, place.offset, task.unit, place.half);
  }
  const DType element = target_dtype(place, dtype);
  return fill(task, dtype, writer, [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
    return source.read(row, column, count, out, element);
  });
}

std::vector<LoadTask> make_tasks(const std::vector<const WeightPlace*>& places) {
  std::vector<LoadTask> tasks;
  for (const WeightPlace* place : places) {
    const int64_t units = units_of(*place);
    for (int64_t unit = 0; unit < units; ++unit) tasks.push_back({place, unit, units});
  }
  return tasks;
}

// Bytes of the source that count for the task, so that a place's tasks add up to the whole.
uint64_t share(uint64_t bytes, const LoadTask& task) {
  const auto n = static_cast<uint64_t>(task.num_units);
  return bytes / n + (task.unit == 0 ? bytes % n : 0);
}

// Tensors that a checkpoint may have although the model does not read them.
bool may_be_ignored(const io::Checkpoint& checkpoint, const io::TensorEntry& tensor,
                    const io::ModelConfig& config) {
  const std::string_view name = tensor.name;
  if (!tensor.is_listed) return true;
  if (name.ends_with(".rotary_emb.inv_freq")) return true;  // written by old versions of transformers
  if (io::is_unused_bias(checkpoint, config.quantization, tensor)) return true;
  return config.tie_word_embeddings && name == "lm_head.weight";
}

// What part of the whole tensor is stored, of `bytes`.
uint64_t stored_share(const WeightPlace& place, uint64_t bytes) {
  const auto whole = static_cast<uint64_t>(elements_of(place));
  const auto part = static_cast<uint64_t>(stored_elements(place));
  if (bytes % whole == 0) return bytes / whole * part;
  return static_cast<uint64_t>(static_cast<double>(bytes) * static_cast<double>(part) /
                               static_cast<double>(whole));
}

// Asks for the bytes of places before they are needed, so that the disk reads while others are packed.
class ReadAhead {
 public:
  ReadAhead(const io::Checkpoint& checkpoint, const io::QuantizationConfig& quantization,
            const std::vector<const WeightPlace*>& places)
      : checkpoint_(checkpoint) {
    for (size_t i = 0; i < places.size(); ++i) {
      order_[places[i]] = i;
      // Of a tensor of which other processes store the most, a part is read, here and there.
      const bool whole = stored_elements(*places[i]) == elements_of(*places[i]);
      tensors_.push_back(whole ? io::find_linear(checkpoint, quantization, places[i]->name)
                               : io::LinearTensors());
    }
  }

  // A task of this place begins.
  void reach(const WeightPlace* place) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return;  // another thread asks
    for (const size_t reached = order_.at(place); passed_ < reached; ++passed_) {
      if (passed_ < asked_) ahead_ -= tensors_[passed_].bytes();
    }
    asked_ = std::max(asked_, passed_);
    for (; asked_ < tensors_.size() && ahead_ < kMaxAhead; ++asked_) {
      for (const io::TensorEntry* tensor : tensors_[asked_].all())
        if (tensor != nullptr) checkpoint_.will_need(*tensor);
      ahead_ += tensors_[asked_].bytes();
    }
  }

 private:
  static constexpr uint64_t kMaxAhead = uint64_t{256} << 20;

  const io::Checkpoint& checkpoint_;
  std::vector<io::LinearTensors> tensors_;
  std::map<const WeightPlace*, size_t> order_;
  std::mutex mutex_;
  size_t passed_ = 0, asked_ = 0;  // places
  uint64_t ahead_ = 0;             // bytes asked for, of places that are not passed
};

}  // namespace

void check_tensors(const io::Checkpoint& checkpoint, const io::ModelConfig& config) {
  const WeightPlan plan = plan_weights(config, DType::bf16, whole_model(config));
  const std::string path = checkpoint.path().string();
  std::set<const io::TensorEntry*> expected;
  checkpoint.reading([&] {
    for (const WeightPlace& place : plan.places) {
      const auto source = io::LinearSource::open(checkpoint, plan.quantization, place.name, place.shape);
      for (const io::TensorEntry* tensor : source.tensors().all()) expected.insert(tensor);
    }
  });
  for (const io::TensorEntry& tensor : checkpoint.tensors()) {
    if (expected.contains(&tensor) || may_be_ignored(checkpoint, tensor, config)) continue;
    throw_error("{}: tensor \"{}\" in {}: not part of the model that config.json describes", path,
                tensor.name, tensor.file);
  }
}

uint64_t bytes_to_load(const io::Checkpoint& checkpoint, const WeightPlan& plan) {
  uint64_t bytes = 0;
  for (const WeightPlace& place : plan.places) {
    bytes += stored_share(place, io::find_linear(checkpoint, plan.quantization, place.name).bytes());
  }
  return bytes;
}

std::vector<std::string> load_weights(const io::Checkpoint& checkpoint, const WeightPlan& plan,
                                      const Buffer& memory, ThreadPool& pool, ProgressBar& progress) {
  // In the order of the files, which is how disks like to be read.
  std::vector<const WeightPlace*> places;
  for (const WeightPlace& place : plan.places) places.push_back(&place);
  std::map<const WeightPlace*, const io::TensorEntry*> tensor_of;
  for (const WeightPlace* place : places)
    tensor_of[place] = io::find_linear(checkpoint, plan.quantization, place->name).weight;
  std::stable_sort(places.begin(), places.end(), [&](const WeightPlace* a, const WeightPlace* b) {
    return tensor_of.at(a) < tensor_of.at(b);  // entries of one table
  });
  const std::vector<LoadTask> tasks = make_tasks(places);

  std::vector<std::atomic<int64_t>> tasks_left(checkpoint.tensors().size());
  std::vector<std::atomic<int64_t>> nans(checkpoint.tensors().size());
  const auto index_of = [&](const io::TensorEntry* tensor) {
    return static_cast<size_t>(tensor - checkpoint.tensors().data());
  };
  for (const LoadTask& task : tasks) ++tasks_left[index_of(tensor_of.at(task.place))];

  const std::unique_ptr<WeightWriter> writer = make_weight_writer(memory, pool.size());
  ReadAhead reader(checkpoint, plan.quantization, places);
  pool.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    if (!checkpoint.could_read()) return;
    const LoadTask& task = tasks[static_cast<size_t>(i)];
    const auto source =
        io::LinearSource::open(checkpoint, plan.quantization, task.place->name, task.place->shape);
    reader.reach(task.place);
    const size_t tensor = index_of(source.tensors().weight);
    nans[tensor] += fill_from(source, task, plan.dtype, *writer);
    progress.add(share(stored_share(*task.place, source.bytes()), task));
    if (--tasks_left[tensor] == 0) source.release();
  });

  writer->finish();
  checkpoint.check_read();

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
  RandomTensor(uint64_t seed, const WeightPlace& place)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        name_hash_(hash_name(place.name)),
        columns_(place.shape.back()),
        is_norm_(place.name.ends_with("norm.weight")) {}

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

void fill_random_weights(const WeightPlan& plan, uint64_t seed, const Buffer& memory, ThreadPool& pool,
                         ProgressBar& progress) {
  std::vector<const WeightPlace*> places;
  for (const WeightPlace& place : plan.places) places.push_back(&place);
  const std::vector<LoadTask> tasks = make_tasks(places);
  const std::unique_ptr<WeightWriter> writer = make_weight_writer(memory, pool.size());
  pool.parallel(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const LoadTask& task = tasks[static_cast<size_t>(i)];
    const RandomTensor tensor(seed, *task.place);
    const DType dtype = target_dtype(*task.place, plan.dtype);
    fill(task, plan.dtype, *writer,
         [&](int64_t row, int64_t column, int64_t count, std::byte* out) -> int64_t {
           if (dtype == DType::bf16)
             tensor.read(row, column, count, reinterpret_cast<bf16*>(out));
           else
             tensor.read(row, column, count, reinterpret_cast<float*>(out));
           return 0;
         });
    progress.add(share(static_cast<uint64_t>(stored_elements(*task.place)) * size_of(dtype), task));
  });
  writer->finish();
}

}  // namespace chorale::model
