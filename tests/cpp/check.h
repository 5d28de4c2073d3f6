// What the C++ tests need of a test framework: conditions that say where they failed, and a count.
#ifndef MYLINEAR_TESTS_CHECK_H_
#define MYLINEAR_TESTS_CHECK_H_

#include <cstdio>
#include <cstdlib>
#include <string>

inline int num_checks = 0;
inline int num_failures = 0;

inline void check_that(bool is_true, const std::string& what, const char* file, int line) {
  ++num_checks;
  if (is_true) return;
  ++num_failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
  if (num_failures >= 20) std::exit(1);
}

#define CHECK(condition) check_that((condition), #condition, __FILE__, __LINE__)
#define CHECK_MESSAGE(condition, message) check_that((condition), (message), __FILE__, __LINE__)

// The exit status; a test that checked nothing has failed.
inline int report() {
  std::printf("%d checks, %d failures\n", num_checks, num_failures);
  return num_failures || !num_checks;
}

#endif  // MYLINEAR_TESTS_CHECK_H_
