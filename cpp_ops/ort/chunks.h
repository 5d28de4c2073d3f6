// Layer: ORT API. Into how many pieces a kernel for the CPU cuts its work for Call::parallel_for.
#ifndef MYLINEAR_ORT_CHUNKS_H_
#define MYLINEAR_ORT_CHUNKS_H_

#include <algorithm>
#include <cstddef>
#include <thread>

namespace mylinear::ort {

// onnxruntime does not tell the number of threads, so the work is cut finer than the machine has cores;
// ParallelFor costs 0.4 to 1 microsecond for 64 items and much more beyond.
class Chunks {
 public:
  Chunks() {
    const size_t cores = std::thread::hardware_concurrency();
    few_ = cores ? std::min(cores * kPerCore, kMax) : kMax;
  }

  // For `size` items with so many multiplications in all: large work is cut into more pieces, since cores are
  // not equally fast and all wait for the last piece. 0 stands for few pieces at any size.
  size_t of(size_t size, double multiplications) const {
    const double wanted = std::min(multiplications / kMultiplications, static_cast<double>(kMax));
    return std::min(size, std::max(static_cast<size_t>(wanted), few_));
  }

 private:
  static constexpr size_t kMax = 64;
  static constexpr size_t kPerCore = 4;
  static constexpr double kMultiplications = 1 << 21;  // of one piece
  size_t few_;
};

}  // namespace mylinear::ort

#endif  // MYLINEAR_ORT_CHUNKS_H_
