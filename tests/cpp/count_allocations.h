// Replaces operator new by one that counts, in whatever is linked with count_allocations.cc.
#ifndef MYLINEAR_TESTS_COUNT_ALLOCATIONS_H_
#define MYLINEAR_TESTS_COUNT_ALLOCATIONS_H_

#include <atomic>

extern std::atomic<bool> is_counting;
extern std::atomic<int> num_allocations;

#endif  // MYLINEAR_TESTS_COUNT_ALLOCATIONS_H_
