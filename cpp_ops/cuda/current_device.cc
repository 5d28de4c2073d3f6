// Layer: CUDA kernels. See current_device.h.
#include "cuda/current_device.h"

#include <string>

namespace mylinear::cuda {
namespace {
constexpr int kMaxDevices = 64;
}

Device& device_state(int device) {
  static std::mutex mutex;
  static Device* devices[kMaxDevices] = {};
  if (device < 0 || device >= kMaxDevices)
    throw Error(kFailed, "device " + std::to_string(device) + " is not among 0 to 63");
  const std::lock_guard<std::mutex> lock(mutex);
  if (!devices[device]) {
    auto made = std::make_unique<Device>();
    check(cudaDeviceGetAttribute(&made->num_multiprocessors, cudaDevAttrMultiProcessorCount, device),
          "cudaDeviceGetAttribute");
    devices[device] = made.release();
  }
  return *devices[device];
}

Products& products_of(Device& device) {
  std::call_once(device.products_once, [&] { device.products = std::make_unique<Products>(cublas_lt()); });
  return *device.products;
}

}  // namespace mylinear::cuda
