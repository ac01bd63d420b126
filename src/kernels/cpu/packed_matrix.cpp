#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <span>
#include <vector>

#include "base/element_rows.h"
#include "base/error.h"
#include "base/instruction_set.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/quantized_group.h"

namespace chorale::cpu {
namespace {

// Which instructions pack does not matter to the bytes.
InstructionSet best_instruction_set() {
  static const InstructionSet best = available_instruction_sets().back();
  return best;
}

// A chunk of a matrix, or of one half of a fused pair.
struct ChunkOf {
  int64_t chunk;
  int half;
};

// Calls run(row, column, args) for each panel of a chunk, where its first row begins, with all of `args` but
// the rows; adds up what it returns.
template <typename Run>
int64_t for_each_panel(const PackedLayout& layout, std::byte* target, ChunkOf which, const Run& run) {
  const bool split_n = layout.splits_n();
  const int64_t first_row = split_n ? which.chunk * layout.chunk_n() : 0;
  const int64_t first_column = split_n ? 0 : which.chunk * layout.chunk_k();
  const int64_t pair = layout.fused_pair ? 2 : 1;
  int64_t nans = 0;
  for (int64_t p = 0; p < layout.panels_per_chunk() / pair; ++p) {
    const int64_t panel = p * pair + which.half;
    InterleaveArgs args{.rows = nullptr,
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
  const CpuKernels& kernels = kernels_for(best_instruction_set());
  const int64_t words = layout.chunk_k_words();
  std::vector<uint32_t> rows(static_cast<size_t>(kPanelWidth * words));
  return for_each_panel(layout, target, which, [&](int64_t row, int64_t column, InterleaveArgs& args) {
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
  const CpuKernels& kernels = kernels_for(best_instruction_set());
  return for_each_panel(layout, target, which, [&](int64_t row, int64_t column, InterleaveArgs& args) {
    args.rows = source + row * row_bytes + column * 2;
    args.row_bytes = row_bytes;
    args.counts_bf16_nan = true;
    return kernels.interleave(args);
  });
}

}  // namespace

int64_t pack_chunk(const ElementReader& read, const WeightLayout& shape, std::byte* target, int64_t chunk,
                   int half) {
  const PackedLayout layout(shape);
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

void pack_int4_chunk(const Int4Reader& read, const WeightLayout& shape, std::byte* target, int64_t chunk,
                     int half) {
  const PackedLayout layout(shape);
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

int64_t pack_chunk(const SourceMatrix& source, const WeightLayout& layout, std::byte* target, int64_t chunk,
                   int half) {
  CHORALE_CHECK(source.rows == layout.n && source.columns == layout.k, "[{}, {}] for [{}, {}]", source.rows,
                source.columns, layout.n, layout.k);
  const auto element = static_cast<int64_t>(size_of(source.dtype));
  const DType dtype = element_dtype(layout.format);
  const int64_t stride = source.row_stride > 0 ? source.row_stride : source.columns;
  if (layout.format == WeightFormat::bf16 && source.dtype == DType::bf16 && layout.chunk_k() % 2 == 0)
    return pack_bf16(source.data, stride * 2, PackedLayout(layout), target, {chunk, half});
  return pack_chunk(
      [&](int64_t row, int64_t column, int64_t count, std::byte* out) {
        const std::byte* from = source.data + (row * stride + column) * element;
        return convert_elements(from, source.dtype, out, dtype, count);
      },
      layout, target, chunk, half);
}

}  // namespace chorale::cpu
