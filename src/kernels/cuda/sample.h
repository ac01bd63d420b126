// Sampling on a GPU: the ops of kernels/sample.h, with a queue in place of the stream and tensors in device
// memory. Each returns before it has run.
//
// Tokens, statuses and the most likely tokens are those of every other backend: all of it is integers, or
// operations that round alike everywhere. A log probability may differ in its last place, since the logarithm
// of a row's sum is the device's.
#pragma once

#include "base/tensor.h"
#include "kernels/cuda/runtime.h"
#include "kernels/sample.h"

namespace chorale::cuda {

// Bytes of scratch for each row that is worked on at once, a multiple of 8.
int64_t sample_scratch_bytes(int64_t vocab_size);

// scratch: uint8 [S, at least sample_scratch_bytes(V)] whose rows begin at multiples of 8 bytes: a GPU is
// busy with some 32 rows or more. `allowed` must be there where a row is masked.
void sample(const Queue& queue, const SampleRows& input, const Tensor& scratch, const SampledRows& output);

// A row that was not sampled gives token 0, too.
void place_tokens(const Queue& queue, const Tensor& sampled, const Tensor& rows, const Tensor& token_ids);

void clear_counts(const Queue& queue, const Tensor& counts);
// A token that the vocabulary does not have is left out.
void count_tokens(const Queue& queue, const Tensor& tokens, bool in_prompt, const Tensor& counts);

}  // namespace chorale::cuda
