// CUDA's device side on the CPU, as a test of a kernel has it: without CUDA's headers.
#include "ort/cuda/on_cpu.h"

#include "check.h"

namespace {

constexpr int kThreads = 64;

// Each block adds up its part: by shuffles in a warp, in shared memory over warps, and atomically over
// blocks.
__global__ void sum_kernel(int count, const float* x, float* sum) {
  __shared__ float of_warps[kThreads / 32];
  const int step = static_cast<int>(gridDim.x * blockDim.x);
  float own = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < count; i += step) own += x[i];
  for (int distance = 16; distance > 0; distance /= 2) own += __shfl_xor_sync(0xffffffffu, own, distance);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = own;
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(sum, of_warps[0] + of_warps[1]);
}

__global__ void stuck_kernel(int) {
  while (threadIdx.x == 0) __syncthreads();
}

void test_blocks_share_memory_and_wait_for_each_other() {
  std::vector<float> x(1000);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  float sum = 0.5f;
  CHECK(cuda_on_cpu::launch(sum_kernel, dim3(3), kThreads, 1000, static_cast<const float*>(x.data()), &sum) ==
        cudaSuccess);
  CHECK(sum == 499500.5f);
}

void test_a_barrier_that_some_threads_miss_is_an_error() {
  std::string said;
  try {
    cuda_on_cpu::launch(stuck_kernel, dim3(1), kThreads, 0);
  } catch (const std::exception& error) {
    said = error.what();
  }
  CHECK(said == "a barrier that not every thread reaches");
}

}  // namespace

int main() {
  test_blocks_share_memory_and_wait_for_each_other();
  test_a_barrier_that_some_threads_miss_is_an_error();
  return report();
}
