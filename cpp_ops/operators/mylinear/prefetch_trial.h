// Layer: operator MYLINEAR. Chooses which of two prefetches serves a node's weight.
#ifndef MYLINEAR_OPERATORS_MYLINEAR_PREFETCH_TRIAL_H_
#define MYLINEAR_OPERATORS_MYLINEAR_PREFETCH_TRIAL_H_

#include <atomic>
#include <cstdint>

namespace mylinear::my_linear {

// Where a weight lies when its node runs depends on what ran since: in a cache if the model is small, in
// memory if other layers went through the caches. Each place has its own best prefetch
// (benchmarks/README.md), up to 1.4 times as fast as the other, and nothing tells which place it is. So
// now and then a few calls are timed, with either prefetch in turn, and the faster one serves until the next
// trial. The result does not depend on it.
//
// Safe for any number of threads: at worst, overlapping calls spoil a trial.
class PrefetchTrial {
 public:
  static constexpr uint32_t kPeriod = 256;  // calls from trial to trial
  static constexpr uint32_t kTrials = 8;    // of them timed

  struct Choice {
    bool is_near;
    bool is_timed;
  };

  // Chooses for the next call.
  Choice choose() {
    const uint32_t call = calls_.fetch_add(1, std::memory_order_relaxed) % kPeriod;
    if (call == 0) {
      for (auto& best : best_) best.store(UINT64_MAX, std::memory_order_relaxed);
    }
    if (call < kTrials) return {call % 2 == 1, true};
    return {best_[1].load(std::memory_order_relaxed) < best_[0].load(std::memory_order_relaxed), false};
  }

  // Records the time of a call.
  void record(bool is_near, uint64_t nanoseconds) {
    auto& best = best_[is_near];
    if (nanoseconds < best.load(std::memory_order_relaxed))
      best.store(nanoseconds, std::memory_order_relaxed);
  }

 private:
  std::atomic<uint32_t> calls_{0};
  std::atomic<uint64_t> best_[2] = {{UINT64_MAX}, {UINT64_MAX}};  // far, near
};

}  // namespace mylinear::my_linear

#endif  // MYLINEAR_OPERATORS_MYLINEAR_PREFETCH_TRIAL_H_
