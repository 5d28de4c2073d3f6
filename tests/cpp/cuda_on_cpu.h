// As much of CUDA's device side as cpp_ops/cuda/gemv_kernel.cuh uses, on one CPU thread: the threads of a
// block are coroutines that take turns at warp shuffles and block barriers. For the order and reach of loads
// and sums, not for races: a kernel that lacks a barrier may be right here.
#ifndef MYLINEAR_TESTS_CUDA_ON_CPU_H_
#define MYLINEAR_TESTS_CUDA_ON_CPU_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

namespace cuda_on_cpu {

constexpr int kWarp = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
inline Index current_thread, current_block, grid;
inline int num_launches = 0;

// The threads of one block.
class Block {
 public:
  Block(int num_threads, std::function<void()> body)
      : body_(std::move(body)),
        fibers_(static_cast<size_t>(num_threads)),
        arrived_(fibers_.size() / kWarp + 1),
        generation_(fibers_.size() / kWarp + 1),
        slots_(fibers_.size()) {
    current() = this;
    static std::vector<char> stacks;  // for one block at a time
    stacks.resize(fibers_.size() * kStack);
    for (size_t i = 0; i < fibers_.size(); ++i) {
      Fiber& fiber = fibers_[i];
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stacks.data() + i * kStack;
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::run_fiber, 0);
    }
  }

  void run() {
    size_t left = fibers_.size();
    for (int rounds = 0; left; ++rounds) {
      if (rounds > 100000) {
        std::fprintf(stderr, "a barrier that not every thread reaches\n");
        std::abort();
      }
      for (size_t i = 0; i < fibers_.size(); ++i) {
        if (fibers_[i].is_done) continue;
        active_ = i;
        current_thread.x = static_cast<unsigned>(i);
        swapcontext(&scheduler_, &fibers_[i].context);
        left -= fibers_[i].is_done;
      }
    }
  }

  static Block*& current() {
    static Block* block = nullptr;
    return block;
  }

  // Waits for all threads of the warp, or with warp < 0 of the block.
  void wait_for_all(int warp) {
    const size_t index = warp < 0 ? arrived_.size() - 1 : static_cast<size_t>(warp);
    const size_t needed = warp < 0 ? fibers_.size() : kWarp;
    const int before = generation_[index];
    if (++arrived_[index] == needed) {
      arrived_[index] = 0;
      ++generation_[index];
    }
    while (generation_[index] == before) yield();
  }

  template <class T>
  T exchange(T value, int distance) {
    const size_t self = active_;
    const int warp = static_cast<int>(self) / kWarp;
    std::memcpy(&slots_[self], &value, sizeof value);
    wait_for_all(warp);
    T other;
    std::memcpy(&other, &slots_[self ^ static_cast<size_t>(distance)], sizeof other);
    wait_for_all(warp);
    return other;
  }

 private:
  static constexpr size_t kStack = 32 << 10;
  struct Fiber {
    ucontext_t context;
    bool is_done = false;
  };

  static void run_fiber() {
    Block* self = current();
    const size_t index = self->active_;
    self->body_();
    self->fibers_[index].is_done = true;
  }

  void yield() {
    const size_t index = active_;
    swapcontext(&fibers_[index].context, &scheduler_);
    active_ = index;
    current_thread.x = static_cast<unsigned>(index);
  }

  std::function<void()> body_;
  std::vector<Fiber> fibers_;
  std::vector<size_t> arrived_;
  std::vector<int> generation_;
  std::vector<uint64_t> slots_;
  ucontext_t scheduler_;
  size_t active_ = 0;
};

template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 blocks, int num_threads, const Parameters&... values) {
  ++num_launches;
  grid.x = blocks.x;
  grid.y = blocks.y;
  for (unsigned y = 0; y < blocks.y; ++y) {
    for (unsigned x = 0; x < blocks.x; ++x) {
      current_block.x = x;
      current_block.y = y;
      Block(num_threads, [&] { kernel(values...); }).run();
    }
  }
  return cudaSuccess;
}

}  // namespace cuda_on_cpu

#define threadIdx cuda_on_cpu::current_thread
#define blockIdx cuda_on_cpu::current_block
#define gridDim cuda_on_cpu::grid

template <class T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  return cuda_on_cpu::Block::current()->exchange(value, distance);
}
inline void __syncthreads() { cuda_on_cpu::Block::current()->wait_for_all(-1); }
template <class T>
T __ldcs(const T* from) {
  return *from;
}

#endif  // MYLINEAR_TESTS_CUDA_ON_CPU_H_
