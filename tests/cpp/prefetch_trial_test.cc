// Which prefetch a node takes, by how long its calls took.
#include "operators/mylinear/prefetch_trial.h"

#include "check.h"

namespace mylinear {
namespace {

using my_linear::PrefetchTrial;

// Plays calls that take the one or the other time; returns how many of a period had the near prefetch.
uint32_t count_near(PrefetchTrial* trial, uint64_t far_ns, uint64_t near_ns) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < PrefetchTrial::kPeriod; ++i) {
    const PrefetchTrial::Choice choice = trial->choose();
    CHECK(choice.is_timed == (i < PrefetchTrial::kTrials));
    if (choice.is_timed) trial->record(choice.is_near, choice.is_near ? near_ns + i : far_ns + i);
    count += choice.is_near;
  }
  return count;
}

void test_prefetch_trial() {
  constexpr uint32_t kHalf = PrefetchTrial::kTrials / 2;
  PrefetchTrial trial;
  CHECK(count_near(&trial, 2000, 1000) == PrefetchTrial::kPeriod - kHalf);  // a cache holds the weight
  CHECK(count_near(&trial, 1000, 2000) == kHalf);                           // it does not any more
  CHECK(count_near(&trial, 2000, 1000) == PrefetchTrial::kPeriod - kHalf);
}

}  // namespace
}  // namespace mylinear

int main() {
  mylinear::test_prefetch_trial();
  return report();
}
