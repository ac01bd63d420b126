#include "engine/count_slots.h"

#include <memory>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::engine {
namespace {

struct Bench {
  CountSlots slots;
  std::vector<std::unique_ptr<Sequence>> sequences;

  Sequence& add() {
    sequences.push_back(std::make_unique<Sequence>(GenerationRequest{.prompt_ids = {1}}, EventListener()));
    sequences.back()->phase = Phase::running;
    return *sequences.back();
  }
};

TEST(CountSlots, ASequenceKeepsItsSlotWhileItRuns) {
  Bench bench;
  Sequence &a = bench.add(), &b = bench.add();
  EXPECT_TRUE(bench.slots.take(a));
  EXPECT_TRUE(bench.slots.take(b));
  EXPECT_NE(a.count_slot, b.count_slot);
  const int32_t slot = a.count_slot;
  bench.slots.release_preempted();
  EXPECT_FALSE(bench.slots.take(a)) << "its tokens are counted";
  EXPECT_EQ(a.count_slot, slot);
}

TEST(CountSlots, PreemptedAndEndedSequencesGiveTheirsBack) {
  Bench bench;
  Sequence &a = bench.add(), &b = bench.add(), &c = bench.add();
  bench.slots.take(a);
  bench.slots.take(b);
  a.phase = Phase::waiting;
  bench.slots.release_preempted();
  EXPECT_TRUE(bench.slots.take(c));
  EXPECT_EQ(c.count_slot, 0) << "the lowest that is free";
  a.phase = Phase::running;
  EXPECT_TRUE(bench.slots.take(a)) << "it is counted again";
  EXPECT_EQ(a.count_slot, 2);
  bench.slots.release(b);
  bench.slots.release(b);
  EXPECT_TRUE(bench.slots.take(b));
  EXPECT_EQ(b.count_slot, 1);
}

}  // namespace
}  // namespace chorale::engine
