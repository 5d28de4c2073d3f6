// Layer: ORT, any operator. CUDA's device side on one CPU thread, for a .cu file that any C++ compiler
// builds:
//
//   g++ -x c++ -std=c++17 -ffp-contract=off -shared -fPIC -Wno-unknown-pragmas -I<headers> kernel.cu -o
//   kernel.so
//
// The threads of a block are coroutines that take turns at warp shuffles and barriers. It shows the order and
// reach of loads and sums, not races: a kernel that lacks a barrier may be right here. It has blocks of one
// dimension, grids of two, static shared memory, and of the functions those at the end of this file.
//
// With MYLINEAR_CUDA_HEADERS the includer has CUDA's own headers, and types come from there.
#ifndef MYLINEAR_ORT_CUDA_ON_CPU_H_
#define MYLINEAR_ORT_CUDA_ON_CPU_H_

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <vector>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

#ifndef MYLINEAR_CUDA_HEADERS
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned of_x = 1, unsigned of_y = 1, unsigned of_z = 1) : x(of_x), y(of_y), z(of_z) {}
};
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9 };
inline const char* cudaGetErrorName(cudaError_t) { return "cudaError"; }
inline const char* cudaGetErrorString(cudaError_t) { return "an error that the emulation on the CPU made"; }
#endif

namespace cuda_on_cpu {

constexpr int kWarp = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
inline Index current_thread, current_block, block_size, grid;
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
      if (rounds > 100000) throw std::runtime_error("a barrier that not every thread reaches");
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
  static std::mutex
      mutex;  // a session may call a kernel on several threads, and the indices are one thread's
  const std::lock_guard<std::mutex> lock(mutex);
  ++num_launches;
  block_size = {static_cast<unsigned>(num_threads), 1, 1};
  grid = {blocks.x, blocks.y, 1};
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
#define blockDim cuda_on_cpu::block_size
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
template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}

#endif  // MYLINEAR_ORT_CUDA_ON_CPU_H_
