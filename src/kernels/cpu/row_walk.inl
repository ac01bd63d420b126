// How the ops that go over matrices row by row are cut into tasks.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"

namespace chorale::CHORALE_ISA {
namespace {

// Elements per task: enough that handing out the task costs nothing beside it.
constexpr int64_t kWalkElements = 8192;

template <typename Task>
inline void for_each_row(ThreadPool& pool, int64_t rows, int64_t columns, const Task& task) {
  const int64_t of_task = larger(1, kWalkElements / larger(1, columns));
  pool.parallel((rows + of_task - 1) / of_task, [&](int64_t index) {
    const int64_t end = smaller(rows, (index + 1) * of_task);
    for (int64_t row = index * of_task; row < end; ++row) task(row);
  });
}

inline float* row_of(const cpu::FloatMatrix& matrix, int64_t row) {
  return matrix.data + row * matrix.stride;
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
