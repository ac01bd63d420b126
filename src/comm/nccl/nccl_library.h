// NCCL as far as it is used here, found when the program runs: nothing of it is linked or included. The
// declarations are those of nccl.h, whose binary interface NCCL keeps: 2.18 and later have all of it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace chorale::comm::nccl {

using Comm = struct ncclComm*;
struct UniqueId {
  char internal[128];
};
using Stream = void*;  // a cudaStream_t

// ncclResult_t, ncclDataType_t and ncclRedOp_t.
inline constexpr int kSuccess = 0;
inline constexpr int kInProgress = 7;
inline constexpr int kUint8 = 1;
inline constexpr int kInt64 = 4;
inline constexpr int kSum = 0;

inline constexpr int kLeastVersion = 21800;  // 2.18.0

struct Library {
  int (*GetVersion)(int* version);
  const char* (*GetErrorString)(int result);
  const char* (*GetLastError)(Comm comm);
  int (*GetUniqueId)(UniqueId* id);
  int (*CommInitRank)(Comm* comm, int ranks, UniqueId id, int rank);
  int (*CommSplit)(Comm comm, int color, int key, Comm* part, void* config);
  int (*CommAbort)(Comm comm);
  int (*CommGetAsyncError)(Comm comm, int* error);
  int (*GroupStart)();
  int (*GroupEnd)();
  int (*ReduceScatter)(const void* send, void* receive, size_t receive_count, int type, int op, Comm comm,
                       Stream stream);
  int (*Reduce)(const void* send, void* receive, size_t count, int type, int op, int root, Comm comm,
                Stream stream);
  int (*AllGather)(const void* send, void* receive, size_t send_count, int type, Comm comm, Stream stream);
  int (*Broadcast)(const void* send, void* receive, size_t count, int type, int root, Comm comm,
                   Stream stream);
  int (*Send)(const void* send, size_t count, int type, int peer, Comm comm, Stream stream);
  int (*Recv)(void* receive, size_t count, int type, int peer, Comm comm, Stream stream);

  // Throws Error that names the call, the device and NCCL's own words, unless `result` is success.
  void check(int result, std::string_view call, int device, Comm comm = nullptr) const;
};

// Loads it once, from the file that CHORALE_NCCL names, else as the loader finds libnccl.so.2. Throws Error
// that says how to get it. Thread-safe; kept until the process ends.
const Library& library();
// The same; empty where it is there.
std::string why_there_is_none();

}  // namespace chorale::comm::nccl
