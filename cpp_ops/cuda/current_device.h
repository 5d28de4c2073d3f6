// Layer: CUDA kernels. Devices: the state that is kept of each, and which one is current.
#ifndef MYLINEAR_CUDA_CURRENT_DEVICE_H_
#define MYLINEAR_CUDA_CURRENT_DEVICE_H_

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>

#include "cuda/cublas_lt.h"
#include "cuda/error.h"

namespace mylinear::cuda {

// The state of a device, made at its first call and kept.
struct Device {
  int num_multiprocessors = 0;
  std::once_flag products_once;
  std::unique_ptr<Products> products;
};

// Returns the state of a device, which must be current. Thread-safe.
Device& device_state(int device);

// Loads cuBLASLt at the first call. Thread-safe.
Products& products_of(Device& device);

// Makes a device current, and at the end the one before again. Does nothing if it is current already, as
// under onnxruntime.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ == device) return;
    check(cudaSetDevice(device), "cudaSetDevice");
    has_changed_ = true;
  }
  CurrentDevice(const CurrentDevice&) = delete;
  ~CurrentDevice() {
    if (has_changed_) static_cast<void>(cudaSetDevice(before_));
  }

 private:
  int before_ = 0;
  bool has_changed_ = false;
};

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_CURRENT_DEVICE_H_
