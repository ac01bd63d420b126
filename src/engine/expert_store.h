// The experts that a process stores while experts move: what a new placement needs is read beside the steps,
// and takes the place of what it does not need any more.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "engine/stored_weights.h"

namespace chorale::engine {

// Used by one thread at a time.
class ExpertStore {
 public:
  // Changes `stored`, in which all other weights stay as they are. Both must outlive the store.
  ExpertStore(StoredWeights& stored, const WeightSource& source);

  // Begins to read what is not stored of these experts of a sparse layer, one per slot; an earlier fetch that
  // was not placed is of no use any more.
  void fetch(int layer, std::span<const int32_t> experts);
  // The bytes that were read; nothing while the fetch is under way. Throws Error, also when asked again,
  // where they could not be read.
  std::optional<uint64_t> fetched();
  // Once fetched() has given a number, between two steps: these experts are what is stored of the layer. What
  // has left it is overwritten by a later fetch.
  void place();

 private:
  // Where an expert's matrices lie.
  struct Home {
    const Buffer* memory = nullptr;
    size_t gate_up = 0, down = 0;
  };
  // Homes of a kind: where the down projection begins in a new one, and its bytes.
  using Kind = std::pair<size_t, size_t>;

  Home home_of(int layer, int32_t expert) const;
  Home take_home(const Kind& kind);
  void give_back();

  StoredWeights& stored_;
  const WeightSource source_;
  std::list<Buffer> memory_;  // of homes beyond those that were there at first
  std::map<Kind, std::vector<Home>> free_;
  std::map<std::pair<int, int32_t>, Home> moved_;  // homes by layer and expert, of those that have moved

  // The fetch.
  int layer_ = -1;
  std::vector<int32_t> wanted_;      // ascending, each once
  std::map<int32_t, Home> fetched_;  // what is read
  std::map<int32_t, Kind> fetched_kinds_;
  std::shared_future<uint64_t> reading_;  // last: it uses the rest
};

}  // namespace chorale::engine
