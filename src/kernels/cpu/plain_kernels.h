// The CPU kernels that are compiled once: they move or count more than they multiply, so wider registers
// would not help. Arguments have been checked by the dispatch files.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "base/thread_pool.h"
#include "kernels/dispatch.h"
#include "kernels/route.h"

namespace chorale::cpu {

void clear_sums(ThreadPool& pool, const Tensor& sums);
void add_sums(ThreadPool& pool, const Tensor& sums, const Tensor& bias, const Tensor& residual);

void embed(ThreadPool& pool, const Tensor& ids, const Tensor& table, const Tensor& out);
void embed_bits(ThreadPool& pool, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits);
void bits_to_rows(ThreadPool& pool, const Tensor& bits, const Tensor& out);
void copy_rows(ThreadPool& pool, const Tensor& x, const Tensor& out);
void gather_rows(ThreadPool& pool, const Tensor& rows, const Tensor& x, const Tensor& out);

void rope_table(ThreadPool& pool, const Tensor& positions, const Tensor& frequencies, float scale,
                const Tensor& cos_sin);

void choose_experts(ThreadPool& pool, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen);
void sort_by_expert(const ChosenExperts& chosen, const ExpertRows& rows);

int64_t dispatch_rows(ThreadPool& pool, const Tensor& x, const ChosenExperts& chosen,
                      const DispatchTable& table, const RowFormat& format, const SendBuffers& send);
void add_returned(ThreadPool& pool, const Tensor& returned, const Tensor& tokens, const Tensor& sums);
void count_experts(const Tensor& experts, const Tensor& counts);

}  // namespace chorale::cpu
