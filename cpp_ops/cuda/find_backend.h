// Layer: entry. Finds and opens libmylinear_cuda.so; knows no CUDA.
#ifndef MYLINEAR_CUDA_FIND_BACKEND_H_
#define MYLINEAR_CUDA_FIND_BACKEND_H_

#include <string>

#include "cuda/backend.h"

namespace mylinear::cuda {

struct FoundBackend {
  std::string path;                 // where to look for it
  std::string reason;               // why a session cannot have it; empty if it can
  const Backend* loaded = nullptr;  // may be loaded although a driver or a device is missing
};

// Looks beside this library, or where MYLINEAR_CUDA_LIBRARY says, for a backend of the same package version.
// A loaded backend stays loaded; a missing one is looked for again at the next call. Thread-safe.
FoundBackend find_backend(const char* package_version);

}  // namespace mylinear::cuda

#endif  // MYLINEAR_CUDA_FIND_BACKEND_H_
