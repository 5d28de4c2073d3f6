// A CUDA runtime with two devices and no GPU. Included by one file of a program, since it defines functions.
#ifndef MYLINEAR_TESTS_FAKE_CUDA_RUNTIME_H_
#define MYLINEAR_TESTS_FAKE_CUDA_RUNTIME_H_

#include <cuda_runtime_api.h>

namespace fake_cuda {
inline int num_devices = 2;
inline thread_local int device = 0;
inline cudaError_t count_status = cudaSuccess;
inline int driver = 13000;
}  // namespace fake_cuda

extern "C" {
cudaError_t cudaGetDevice(int* device) {
  *device = fake_cuda::device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device >= fake_cuda::num_devices) return cudaErrorInvalidDevice;
  fake_cuda::device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = fake_cuda::num_devices;
  return fake_cuda::count_status;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? 2
           : attribute == cudaDevAttrComputeCapabilityMajor ? 9
                                                            : 0;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake_cuda::driver;
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheFake"; }
const char* cudaGetErrorString(cudaError_t) { return "a text of the fake"; }
}

#endif  // MYLINEAR_TESTS_FAKE_CUDA_RUNTIME_H_
