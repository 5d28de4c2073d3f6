#!/usr/bin/env bash
# Compiles the CUDA backend and tests what of it can be tested on a CPU; needs neither a GPU nor a driver nor a toolkit.
#
#   cpp_ops/cuda/check.sh .venv/bin/python   # a Python with this package's test requirements, cmake and ninja
set -euo pipefail
python=$(realpath -s "${1:?the Python to test with}")
cd "$(dirname "$0")/../.."
export PATH="$(dirname "$python"):$PATH"

# A virtual environment of its own, so that what is tested elsewhere does not change by CUDA's packages.
[ -x build/cuda-venv/bin/python ] || "$python" -m venv build/cuda-venv
build/cuda-venv/bin/python -m pip install -q -r cpp_ops/cuda/requirements.txt
root=$(build/cuda-venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib') + '/nvidia/cu13')")

# The version of the installed library, beside which the backend is tried below.
version=$("$python" -c "from ort_ops.native import library; print(library.status().version)")
cmake -S cpp_ops -B build/cuda-check -G Ninja -DCMAKE_BUILD_TYPE=Release -DMYLINEAR_CUDA=ON -DMYLINEAR_CUDA_ROOT="$root" \
  -DMYLINEAR_BUILD_TESTS=ON -DMYLINEAR_VERSION="$version"
cmake --build build/cuda-check --target mylinear_cuda cuda_backend_test cuda_fused_backend_test cuda_grad_backend_test \
  cuda_parts_test cuda_backend_on_cpu
ctest --test-dir build/cuda-check --output-on-failure --no-tests=error --parallel 2 \
  -R '^cuda_(backend|fused_backend|grad_backend|parts)_test$'

# The same code from Python: the contract's samples within its bound.
MYLINEAR_CUDA_ON_CPU=$PWD/build/cuda-check/tests/libcuda_backend_on_cpu.so "$python" -m pytest -q -p no:cacheprovider \
  tests/native/test_cuda_on_cpu.py

# Beside the installed C++ library it loads, is of the same build, and says what this machine lacks.
library=$PWD/build/cuda-check/cuda/libmylinear_cuda.so
MYLINEAR_CUDA_LIBRARY=$library "$python" -m pytest -q -p no:cacheprovider -k fit tests/native/test_cuda_registration.py |
  tee build/cuda-check/pytest.log
grep -q "^1 passed" build/cuda-check/pytest.log

# The CUDA kernel of a new package, built by its own setup.py. It loads, has both kernels, and says what is missing here.
rm -rf build/cuda-check/package
"$python" -m ort_ops.cli new CheckedByNvcc --cuda --inputs x,bias:optional --folder build/cuda-check/package
CUDA_HOME=$root "$python" -m pip wheel -q --no-deps -w build/cuda-check/package/wheel build/cuda-check/package
"$python" -m zipfile -e build/cuda-check/package/wheel/*.whl build/cuda-check/package/wheel
"$python" -c "import sys; from ort_ops.native import library as l; print(l.describe(sys.argv[1], 'mylinear_cuda_missing'))
print(*(o['provider'] for o in l.describe(sys.argv[1], 'mylinear_operators')))" \
  build/cuda-check/package/wheel/checked_by_nvcc/_kernel_cuda*.so | tee build/cuda-check/package.log
grep -q "^CPUExecutionProvider CUDAExecutionProvider$" build/cuda-check/package.log

# One symbol, and nothing of CUDA that the loader would have to find.
nm -D --defined-only "$library" | awk '{print $3}' | diff - <(echo mylinear_cuda_backend)
if readelf -d "$library" | grep NEEDED | grep -E "cuda|cublas|nvrtc"; then exit 1; fi
