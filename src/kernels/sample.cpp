#include "kernels/sample.h"

#include <limits>

#include "base/math.h"
#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {
namespace {

void check_sparse(const SparseRows& rows, DType dtype, int64_t num_rows, const char* name) {
  if (rows.offsets.empty()) return;
  check_vector(rows.offsets, DType::i32, num_rows + 1, name);
  check_vector(rows.tokens, DType::i32, 0, name);
  check_vector(rows.values, dtype, rows.tokens.columns(), name);
}

}  // namespace

int64_t sample_scratch_bytes(int64_t vocab_size, DeviceKind kind) {
  return backend_of(kind).sample_scratch_bytes(vocab_size);
}

void sample(const Stream& stream, const SampleRows& input, const Tensor& scratch, const SampledRows& output) {
  const OpScope scope(stream.profile(), "sample");
  const int64_t rows = input.logits.rows();
  const int64_t vocab_size = input.logits.columns();
  if (rows == 0) return;
  CHORALE_CHECK(vocab_size >= 1 && vocab_size <= kMaxVocabulary, "a vocabulary of {} tokens", vocab_size);
  check_matrix(input.logits, DType::f32, rows, vocab_size, "logits");
  check_matrix(input.params, DType::u8, rows, sizeof(SampleParams), "params");
  check_sparse(input.bias, DType::f32, rows, "bias");
  if (!input.counts.empty())
    check_matrix(input.counts, DType::i32, input.counts.rows(), vocab_size, "counts");
  if (!input.allowed.empty()) {
    check_matrix(input.allowed, DType::i32, rows, ceil_div<int64_t>(vocab_size, 32), "allowed");
  }
  check_vector(output.tokens, DType::i32, rows, "tokens");
  check_vector(output.statuses, DType::i32, rows, "statuses");
  if (!output.logprobs.empty()) {
    check_matrix(output.logprobs, DType::f32, rows, 1 + output.top_tokens.columns(), "logprobs");
  }
  CHORALE_CHECK(scratch.dtype() == DType::u8 && scratch.rows() >= 1 &&
                    scratch.columns() >= sample_scratch_bytes(vocab_size, stream.device().kind()) &&
                    scratch.row_stride() % 8 == 0,
                "scratch [{}, {}]", scratch.rows(), scratch.columns());
  backend_of(stream).sample(stream, input, scratch, output);
}

void place_tokens(const Stream& stream, const Tensor& sampled, const Tensor& rows, const Tensor& token_ids) {
  const OpScope scope(stream.profile(), "place_tokens");
  check_vector(sampled, DType::i32, 0, "sampled");
  check_vector(rows, DType::i32, 0, "rows");
  check_matrix(token_ids, DType::i32, 1, rows.columns(), "token_ids");
  if (!rows.empty()) backend_of(stream).place_tokens(stream, sampled, rows, token_ids);
}

void clear_counts(const Stream& stream, const Tensor& counts) {
  const OpScope scope(stream.profile(), "clear_counts");
  check_matrix(counts, DType::i32, 1, counts.columns(), "counts");
  backend_of(stream).clear_counts(stream, counts);
}

void count_tokens(const Stream& stream, const Tensor& tokens, bool in_prompt, const Tensor& counts) {
  const OpScope scope(stream.profile(), "count_tokens");
  check_vector(tokens, DType::i32, 0, "tokens");
  check_matrix(counts, DType::i32, 1, counts.columns(), "counts");
  if (!tokens.empty()) backend_of(stream).add_counts(stream, tokens, in_prompt, counts);
}

}  // namespace chorale
