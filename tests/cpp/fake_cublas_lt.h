// What the fake cuBLASLt counts, and what it is told to refuse.
#ifndef MYLINEAR_TESTS_FAKE_CUBLAS_LT_H_
#define MYLINEAR_TESTS_FAKE_CUBLAS_LT_H_

#include <cstddef>
#include <cstdint>

struct FakeCublasLt {
  int num_handles = 0;
  int num_heuristics = 0;
  int num_products = 0;
  int num_descs = 0;
  int live_objects = 0;  // descriptions, layouts and preferences
  uint32_t alignment[4] = {};
  void* last_stream = nullptr;
  bool last_is_tf32 = false;

  uint64_t workspace = 0;  // what the algorithm asks for, if it may
  bool refuses_epilogue = false;
  bool refuses_products = false;
  bool finds_nothing = false;
  bool refuses_to_run = false;
  bool fails = false;
};

extern "C" FakeCublasLt* fake_cublas_lt();

#endif  // MYLINEAR_TESTS_FAKE_CUBLAS_LT_H_
