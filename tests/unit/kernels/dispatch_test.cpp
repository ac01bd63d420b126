// dispatch.h against what it says: which rows go where, and what they hold.
#include "kernels/dispatch.h"

#include <cstring>
#include <set>

#include "kernels/expert_matmul.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {
namespace {

struct Case {
  int64_t tokens, experts, top_k, owners, copies, hidden, variants;
  DType act;
  DeviceKind device = DeviceKind::cpu;
};

std::vector<Case> on_all_devices(std::initializer_list<Case> cases) {
  std::vector<Case> all;
  for (const DeviceKind device : kAllDevices) {
    for (Case c : cases) {
      c.device = device;
      all.push_back(c);
    }
  }
  return all;
}

class Dispatch : public testing::TestWithParam<Case> {
 private:
  OnDevice device_{GetParam().device};
};

TEST_P(Dispatch, EveryTokenGoesOnceToEachOwnerOfItsExperts) {
  const Case c = GetParam();
  Random random(5);
  const Stream stream = streams(InstructionSet::portable)[1];
  const RowFormat format{c.act, c.hidden, c.top_k};
  const int64_t slots_per_rank = (c.experts + c.owners - 1) / c.owners + 1;
  const int64_t ranks = c.owners * c.copies;
  const int64_t most_rows = c.tokens * std::min(c.top_k, c.owners) * c.copies;
  const TestTensor x(c.act, c.tokens, c.hidden);
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t h = 0; h < c.hidden; ++h) {
      const auto value = static_cast<float>(random() % 1000);
      if (c.act == DType::bf16)
        x->row<bf16>(t)[h] = to_bf16(value);
      else
        x->row<float>(t)[h] = value;
    }
  }
  const TestTensor experts(DType::i32, c.tokens, c.top_k), weights(DType::f32, c.tokens, c.top_k);
  for (int64_t t = 0; t < c.tokens; ++t) {
    std::set<int32_t> different;
    while (static_cast<int64_t>(different.size()) < c.top_k) {
      different.insert(static_cast<int32_t>(random() % static_cast<uint32_t>(c.experts)));
    }
    std::copy(different.begin(), different.end(), experts->row<int32_t>(t));
    for (int64_t i = 0; i < c.top_k; ++i) weights->row<float>(t)[i] = static_cast<float>(random() % 97);
  }
  const TestTensor slots(DType::i32, c.variants, c.experts);
  for (int64_t v = 0; v < c.variants; ++v) {
    for (int64_t e = 0; e < c.experts; ++e) {
      slots->row<int32_t>(v)[e] =
          static_cast<int32_t>(random() % static_cast<uint32_t>(slots_per_rank * c.owners));
    }
  }
  const auto slot_of = [&](int64_t t, int32_t e) { return slots->row<int32_t>((t + e) % c.variants)[e]; };

  const TestTensor sent(DType::i64, 1, ranks);
  const TestTensor tokens(DType::i32, 1, most_rows);
  const TestTensor scratch(DType::i32, c.owners, c.tokens);
  const TestTensor rows(DType::u8, most_rows, format.bytes());
  dispatch_rows(stream, x, {experts, weights}, {slots, slots_per_rank, c.owners, c.copies}, format,
                {.counts = sent, .tokens = tokens, .rows = rows, .owner_tokens = scratch});

  int64_t row = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const int64_t owner = rank / c.copies;
    int64_t expected = 0;
    for (int64_t t = 0; t < c.tokens; ++t) {
      bool goes = false;
      for (int64_t i = 0; i < c.top_k; ++i) {
        goes |= slot_of(t, experts->row<int32_t>(t)[i]) / slots_per_rank == owner;
      }
      if (!goes) continue;
      ++expected;
      ASSERT_LT(row, most_rows);
      EXPECT_EQ(tokens->data<int32_t>()[row], t);
      const Tensor one = rows->middle_rows(row, 1);
      const Tensor act = format.activations(one);
      EXPECT_EQ(std::memcmp(act.bytes(), x->middle_rows(t, 1).bytes(),
                            static_cast<size_t>(c.hidden) * size_of(c.act)),
                0);
      const ChosenExperts travelled = format.chosen(one);
      for (int64_t i = 0; i < c.top_k; ++i) {
        const int64_t slot = slot_of(t, experts->row<int32_t>(t)[i]);
        const int64_t local = slot / slots_per_rank == owner ? slot % slots_per_rank : -1;
        EXPECT_EQ(travelled.experts.row<int32_t>(0)[i], local);
        EXPECT_EQ(travelled.weights.row<float>(0)[i], weights->row<float>(t)[i]);
      }
      ++row;
    }
    EXPECT_EQ(sent->data<int64_t>()[rank], expected) << "rank " << rank;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Dispatch,
    testing::ValuesIn(on_all_devices(
        {Case{1, 1, 1, 1, 1, 1, 1, DType::bf16}, Case{0, 4, 2, 2, 1, 8, 1, DType::f32},
         Case{9, 4, 2, 2, 1, 7, 1, DType::bf16}, Case{9, 4, 4, 2, 2, 33, 1, DType::f32},
         Case{40, 128, 8, 8, 1, 64, 1, DType::bf16}, Case{23, 128, 8, 4, 2, 30, 3, DType::bf16},
         Case{17, 3, 3, 8, 1, 16, 2, DType::f32}, Case{5, 1, 1, 1, 8, 9, 1, DType::bf16}})));

using AddReturned = AnyDeviceTest;
INSTANTIATE_TEST_SUITE_P(All, AddReturned, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(AddReturned, AddsEveryRowToItsToken) {
  std::mt19937_64 random(1);
  for (const Stream& stream : streams(InstructionSet::portable)) {
    const TestTensor sums(DType::i64, 5, 1300);
    for (int64_t t = 0; t < 5; ++t) std::fill_n(sums->row<int64_t>(t), 1300, 0);
    constexpr int64_t kRows = 12;
    const TestTensor returned(DType::i64, kRows + 3, 1300);  // there is room for more than come
    const TestTensor tokens(DType::i32, 1, kRows + 3);
    const TestTensor counts(DType::i64, 1, 3);
    for (const auto& [rank, count] : {std::pair{0, 7}, {1, 0}, {2, 5}}) counts->data<int64_t>()[rank] = count;
    std::vector<uint64_t> expected(5 * 1300);
    for (int64_t i = 0; i < kRows + 3; ++i) {
      const auto token = static_cast<int32_t>(random() % 4);  // token 4 gets none
      tokens->data<int32_t>()[i] = token;
      for (int64_t c = 0; c < 1300; ++c) {
        const auto value = static_cast<int64_t>(random() >> 8);
        returned->row<int64_t>(i)[c] = value;
        if (i < kRows) expected[static_cast<size_t>(token * 1300 + c)] += static_cast<uint64_t>(value);
      }
    }
    add_returned(stream, returned, tokens, counts, sums);
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t c = 0; c < 1300; ++c) {
        ASSERT_EQ(static_cast<uint64_t>(sums->row<int64_t>(t)[c]),
                  expected[static_cast<size_t>(t * 1300 + c)]);
      }
    }
  }
}

using CountExperts = AnyDeviceTest;
INSTANTIATE_TEST_SUITE_P(All, CountExperts, testing::ValuesIn(kAllDevices), name_of_device);

TEST_P(CountExperts, CountsEveryChoice) {
  const Stream stream = streams(InstructionSet::portable)[0];
  const TestTensor experts(DType::i32, 3, 2);
  const TestTensor counts(DType::i64, 1, 4);
  std::fill_n(counts->data<int64_t>(), 4, 0);
  const int32_t values[3][2] = {{0, 3}, {3, 1}, {3, 0}};
  for (int64_t t = 0; t < 3; ++t) std::memcpy(experts->row<int32_t>(t), values[t], sizeof(values[t]));
  count_experts(stream, experts, counts);
  count_experts(stream, experts, counts);
  count_tokens(stream, 5, counts);
  EXPECT_THAT(to_dense<int64_t>(counts).values, testing::ElementsAre(9, 2, 0, 6));
}

}  // namespace
}  // namespace chorale
