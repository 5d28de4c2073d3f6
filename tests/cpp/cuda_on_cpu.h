// The kit's emulation of CUDA's device side, with CUDA's own headers for the types.
#ifndef MYLINEAR_TESTS_CUDA_ON_CPU_H_
#define MYLINEAR_TESTS_CUDA_ON_CPU_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#define MYLINEAR_CUDA_HEADERS
#include "ort/cuda/on_cpu.h"

#endif  // MYLINEAR_TESTS_CUDA_ON_CPU_H_
