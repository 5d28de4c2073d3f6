// Layer: kernels. Memory of a thread for matrices that a kernel turns round: more than a small stack has.
#ifndef MYLINEAR_KERNELS_TURNED_SCRATCH_H_
#define MYLINEAR_KERNELS_TURNED_SCRATCH_H_

#include <cstddef>
#include <cstdint>

namespace mylinear::kernels {

struct Scratch {
  static constexpr size_t kBytes = size_t{1} << 20;

  // What `bytes` hold: rows of a matrix of one call, so that its next tile need not turn them again.
  struct Held {
    uint64_t call;
    const void* rows;
    size_t count;
  };
  Held held;
  uint64_t num_calls;  // of this thread, that have no number
  alignas(64) unsigned char bytes[kBytes];
};

// The calling thread's own, or null if there is no memory for it. Allocated once, and pages that are not used
// take none; freed with the thread.
Scratch* thread_scratch();

}  // namespace mylinear::kernels

#endif  // MYLINEAR_KERNELS_TURNED_SCRATCH_H_
