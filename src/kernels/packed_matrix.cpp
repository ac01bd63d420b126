#include "kernels/packed_matrix.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "base/element_rows.h"
#include "base/error.h"
#include "base/instruction_set.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/quantized_group.h"

namespace chorale {
namespace {

// Which instructions pack does not matter to the bytes.
InstructionSet best_instruction_set() {
  static const InstructionSet best = available_instruction_sets().back();
  return best;
}

}  // namespace

WeightFormat plain_format(DType dtype) {
  CHORALE_CHECK(dtype == DType::bf16 || dtype == DType::f32, "matrices of {}", name_of(dtype));
  return dtype == DType::bf16 ? WeightFormat::bf16 : WeightFormat::f32;
}

DType element_dtype(WeightFormat format) {
  return format == WeightFormat::bf16 ? DType::bf16 : DType::f32;
}

int64_t choose_group(WeightFormat format, int64_t chunk_k, int64_t source_group) {
  if (!is_quantized(format)) return 0;
  const int64_t most = format == WeightFormat::int8 ? kMaxInt8Group : kMaxInt4Group;
  if (source_group > 0) {
    // Groups that divide both the chunk and the source's groups.
    int64_t group = std::gcd(chunk_k, source_group);
    while (group > most && group % 2 == 0) group /= 2;
    CHORALE_CHECK(group % kGroupUnit == 0 && group <= most, "groups of {} in chunks of {}", source_group,
                  chunk_k);
    return group;
  }
  const int64_t groups = (chunk_k + most - 1) / most;
  return ((chunk_k + groups - 1) / groups + kGroupUnit - 1) / kGroupUnit * kGroupUnit;
}

PackedLayout slice_layout(const PackedLayout& layout, int64_t count) {
  PackedLayout slice = layout;
  const bool split_n = layout.n_chunks > 1;
  const int64_t chunks = split_n ? layout.n_chunks : layout.k_chunks;
  CHORALE_CHECK(count >= 1 && count <= chunks, "{} chunks of {}", count, chunks);
  (split_n ? slice.n_chunks : slice.k_chunks) = count;
  (split_n ? slice.n : slice.k) = count * (split_n ? layout.chunk_n() : layout.chunk_k());
  slice.first_k_chunk = slice.stored_k_chunks = 0;
  return slice;
}

PackedLayout slice_in_place(const PackedLayout& layout, int64_t first, int64_t count) {
  const int64_t chunks = layout.n_chunks * layout.k_chunks;
  CHORALE_CHECK(first >= 0 && first + count <= chunks, "chunks {} to {} of {}", first, first + count, chunks);
  PackedLayout slice = slice_layout(layout, count);
  if (layout.n_chunks == 1) {
    slice.first_k_chunk = layout.first_k_chunk + first;
    slice.stored_k_chunks = layout.k_chunks_of_strip();
  }
  return slice;
}

PackedMatrix slice_chunks(const PackedMatrix& matrix, int64_t first, int64_t count) {
  const PackedLayout& whole = matrix.layout;
  const int64_t offset = whole.n_chunks > 1 ? first * whole.chunk_bytes() : 0;
  return {slice_in_place(whole, first, count), matrix.data + offset};
}

namespace {

// A chunk of a matrix, or of one half of a fused pair.
struct ChunkOf {
  int64_t chunk;
  int half;
};

// Calls run(row, column, args) for each panel of a chunk, where its first row begins, with all of `args` but
// the rows; adds up what it returns.
template <typename Run>
int64_t for_each_panel(const PackedLayout& layout, std::byte* target, ChunkOf which, const Run& run) {
  const bool split_n = layout.n_chunks > 1;
  const int64_t first_row = split_n ? which.chunk * layout.chunk_n() : 0;
  const int64_t first_column = split_n ? 0 : which.chunk * layout.chunk_k();
  const int64_t pair = layout.fused_pair ? 2 : 1;
  int64_t nans = 0;
  for (int64_t p = 0; p < layout.panels_per_chunk() / pair; ++p) {
    const int64_t panel = p * pair + which.half;
    cpu::InterleaveArgs args{.rows = nullptr,
                             .row_bytes = 0,
                             .lanes = std::min(kPanelWidth, layout.chunk_n() - p * kPanelWidth),
                             .words = layout.chunk_k_words(),
                             .panel = target + layout.panel_offset(which.chunk, panel),
                             .word_stride = layout.word_stride(panel),
                             .counts_bf16_nan = false};
    nans += run(first_row + p * kPanelWidth, first_column, args);
  }
  return nans;
}

// From encode(row, column, out), which writes a row's words and returns its NaNs.
template <typename Encode>
int64_t pack_rows(const PackedLayout& layout, std::byte* target, ChunkOf which, const Encode& encode) {
  const cpu::CpuKernels& kernels = cpu::kernels_for(best_instruction_set());
  const int64_t words = layout.chunk_k_words();
  std::vector<uint32_t> rows(static_cast<size_t>(kPanelWidth * words));
  return for_each_panel(layout, target, which, [&](int64_t row, int64_t column, cpu::InterleaveArgs& args) {
    int64_t nans = 0;
    for (int64_t lane = 0; lane < args.lanes; ++lane)
      nans += encode(row + lane, column, rows.data() + lane * words);
    args.rows = reinterpret_cast<const std::byte*>(rows.data());
    args.row_bytes = words * 4;
    kernels.interleave(args);
    return nans;
  });
}

// Rows that lie in memory as they are wanted.
int64_t pack_bf16(const std::byte* source, int64_t row_bytes, const PackedLayout& layout, std::byte* target,
                  ChunkOf which) {
  const cpu::CpuKernels& kernels = cpu::kernels_for(best_instruction_set());
  return for_each_panel(layout, target, which, [&](int64_t row, int64_t column, cpu::InterleaveArgs& args) {
    args.rows = source + row * row_bytes + column * 2;
    args.row_bytes = row_bytes;
    args.counts_bf16_nan = true;
    return kernels.interleave(args);
  });
}

}  // namespace

int64_t pack_chunk(const ElementReader& read, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half) {
  const int64_t inputs = layout.chunk_k();
  if (is_quantized(layout.format)) {
    std::vector<float> values(static_cast<size_t>(inputs));
    return pack_rows(layout, target, {chunk, half}, [&](int64_t row, int64_t column, uint32_t* out) {
      const int64_t nans = read(row, column, inputs, reinterpret_cast<std::byte*>(values.data()));
      for (int64_t begin = 0; begin < inputs; begin += layout.group_k) {
        const auto count = static_cast<size_t>(std::min(layout.group_k, inputs - begin));
        const std::span<uint32_t> words(out, static_cast<size_t>(1 + layout.group_words()));
        quantize_group(layout.format, std::span(values).subspan(static_cast<size_t>(begin), count), words);
        out += words.size();
      }
      return nans;
    });
  }
  return pack_rows(layout, target, {chunk, half}, [&](int64_t row, int64_t column, uint32_t* out) {
    out[layout.chunk_k_words() - 1] = 0;  // an odd number of bf16 is padded
    return read(row, column, inputs, reinterpret_cast<std::byte*>(out));
  });
}

void pack_int4_chunk(const Int4Reader& read, const PackedLayout& layout, std::byte* target, int64_t chunk,
                     int half) {
  CHORALE_CHECK(layout.format == WeightFormat::int4);
  pack_rows(layout, target, {chunk, half}, [&](int64_t row, int64_t column, uint32_t* out) {
    for (int64_t begin = 0; begin < layout.chunk_k(); begin += layout.group_k) {
      Int4Group group;
      read(row, column + begin, std::min(layout.group_k, layout.chunk_k() - begin), group);
      const std::span<uint32_t> words(out, static_cast<size_t>(1 + layout.group_words()));
      encode_int4(group, words);
      out += words.size();
    }
    return int64_t{0};
  });
}

int64_t pack_chunk(const SourceMatrix& source, const PackedLayout& layout, std::byte* target, int64_t chunk,
                   int half) {
  CHORALE_CHECK(source.rows == layout.n && source.columns == layout.k, "[{}, {}] for [{}, {}]", source.rows,
                source.columns, layout.n, layout.k);
  const auto element = static_cast<int64_t>(size_of(source.dtype));
  const DType dtype = element_dtype(layout.format);
  const int64_t stride = source.row_stride > 0 ? source.row_stride : source.columns;
  if (layout.format == WeightFormat::bf16 && source.dtype == DType::bf16 && layout.chunk_k() % 2 == 0)
    return pack_bf16(source.data, stride * 2, layout, target, {chunk, half});
  return pack_chunk(
      [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
        const std::byte* from = source.data + (row * stride + column) * element;
        return convert_elements(from, source.dtype, out, dtype, count);
      },
      layout, target, chunk, half);
}

}  // namespace chorale
