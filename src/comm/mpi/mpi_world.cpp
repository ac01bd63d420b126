#include "comm/mpi/mpi_world.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <mutex>
#include <numeric>
#include <utility>

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "comm/mpi/check.h"
#include "comm/mpi/context.h"
#include "comm/mpi/mpi_transport.h"

namespace chorale::comm {
namespace {

// What ranks tell each other at the start.
struct Identity {
  char host[256] = {};
  char boot[64] = {};          // tells hosts of the same name apart
  uint64_t pid_namespace = 0;  // in which pid means this process
  int64_t pid = 0;
  cpu_set_t cores = {};

  bool same_host(const Identity& other) const {
    return std::strcmp(host, other.host) == 0 && std::strcmp(boot, other.boot) == 0;
  }
};

Identity my_identity() {
  Identity me;
  gethostname(me.host, sizeof me.host - 1);
  std::ifstream("/proc/sys/kernel/random/boot_id").getline(me.boot, sizeof me.boot);
  struct stat status = {};
  if (stat("/proc/self/ns/pid", &status) == 0) me.pid_namespace = status.st_ino;
  me.pid = getpid();
  sched_getaffinity(0, sizeof me.cores, &me.cores);
  return me;
}

void start_mpi() {
  int started = 0, support = 0;
  MPI_Initialized(&started);
  CHORALE_CHECK(started == 0, "MPI can be started once in a process");
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &support) != MPI_SUCCESS)
    throw Error("MPI could not be started");
  if (support < MPI_THREAD_SERIALIZED)
    throw Error("this MPI cannot be used by several threads, not even by one after the other");
}

}  // namespace

struct MpiWorld::Impl {
  explicit Impl(const MpiOptions& options);

  std::vector<int> ranks_here;
  std::vector<std::string> hosts;
  std::shared_ptr<mpi::Context> context;
  std::shared_ptr<mpi::MpiTransport> transport;
  std::mutex mutex;      // guards closing
  bool closing = false;  // from then on the others may end
  const int exceptions = std::uncaught_exceptions();
};

MpiWorld::Impl::Impl(const MpiOptions& options) {
  CHORALE_CHECK(
      options.piece_bytes >= 8 && options.piece_bytes <= size_t{1} << 30 && options.piece_bytes % 8 == 0,
      "pieces of {} bytes", options.piece_bytes);
  start_mpi();
  MPI_Comm world = MPI_COMM_NULL;
  mpi::check(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  mpi::check(MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  int rank = 0, size = 0;
  MPI_Comm_rank(world, &rank);
  MPI_Comm_size(world, &size);
  if (static_cast<size_t>(size) > kMaxRanks)
    throw_error("{} ranks; at most {} are supported", size, kMaxRanks);

  std::vector<Identity> all(static_cast<size_t>(size));
  const Identity me = my_identity();
  mpi::check(MPI_Allgather(&me, sizeof me, MPI_BYTE, all.data(), sizeof me, MPI_BYTE, world),
             "MPI_Allgather");
  std::vector<PeerWatch::Peer> peers;
  cpu_set_t cores = me.cores;
  for (int r = 0; r < size; ++r) {
    const Identity& other = all[static_cast<size_t>(r)];
    hosts.emplace_back(other.host);
    if (!me.same_host(other)) continue;
    ranks_here.push_back(r);
    CPU_OR(&cores, &cores, &other.cores);
    if (r != rank && other.pid_namespace == me.pid_namespace)
      peers.push_back({.rank = r, .pid = static_cast<pid_t>(other.pid)});
  }
  const bool can_spin = CPU_COUNT(&cores) >= static_cast<int>(ranks_here.size());
  context = std::make_shared<mpi::Context>(world, options, peers, can_spin);
  std::vector<int> members(static_cast<size_t>(size));
  std::iota(members.begin(), members.end(), 0);
  transport = std::make_shared<mpi::MpiTransport>(context, world, 0, std::move(members));
}

MpiWorld::MpiWorld(MpiOptions options) {
  try {
    impl_ = std::make_unique<Impl>(options);
  } catch (const CollectiveError& error) {
    throw_error("MPI could not be started: {}", error.what());
  }
}

MpiWorld::~MpiWorld() {
  bool leave_alone = impl_->context->failed() || std::uncaught_exceptions() > impl_->exceptions;
  try {
    if (!leave_alone) impl_->transport->barrier();
  } catch (const CollectiveError&) {
    leave_alone = true;
  }
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->closing = true;
  }
  impl_->context->close();
  if (leave_alone) return;
  impl_->context->board().free();
  MPI_Finalize();
}

int MpiWorld::rank() const {
  return impl_->transport->rank();
}

int MpiWorld::size() const {
  return impl_->transport->size();
}

std::shared_ptr<Transport> MpiWorld::transport() const {
  return impl_->transport;
}

const std::vector<int>& MpiWorld::ranks_on_this_host() const {
  return impl_->ranks_here;
}

const std::string& MpiWorld::host_of(int rank) const {
  return impl_->hosts.at(static_cast<size_t>(rank));
}

std::optional<int> MpiWorld::dead_peer(std::chrono::nanoseconds time) const {
  const std::optional<int> dead = impl_->context->peers().dead_peer(time);
  const std::lock_guard lock(impl_->mutex);
  return impl_->closing ? std::nullopt : dead;
}

// The board is gone once the world is being left, so the lock is held while it is read; that does not wait.
std::optional<CollectiveError> MpiWorld::failure(std::chrono::nanoseconds time) const {
  impl_->context->peers().dead_peer(time);
  const std::lock_guard lock(impl_->mutex);
  return impl_->closing ? std::nullopt : impl_->context->look_for_failure({});
}

void MpiWorld::fail(int world_rank, std::string_view reason) {
  const std::lock_guard lock(impl_->mutex);
  if (!impl_->closing) impl_->context->board().fail(rank_failure(world_rank, reason));
}

void MpiWorld::abort(int status) {
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);  // MPI_Abort returns when there is nobody to end
}

}  // namespace chorale::comm
