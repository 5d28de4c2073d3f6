// Layer: CUDA kernels. Exceptions inside the backend; backend.cc catches them all.
#ifndef MYLINEAR_CUDA_ERROR_H_
#define MYLINEAR_CUDA_ERROR_H_

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "cuda/backend.h"

namespace mylinear::cuda {

struct Error : std::runtime_error {
  Error(Code error_code, const std::string& text) : std::runtime_error(text), code(error_code) {}
  Code code;
};

// Throws if a call of the CUDA runtime failed; `what` is its name.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const Code code = status == cudaErrorMemoryAllocation ? kOutOfMemory : kFailed;
  throw Error(code, std::string(what) + ": " + cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_ERROR_H_
