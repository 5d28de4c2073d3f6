#!/usr/bin/env bash
# The aarch64 library under qemu, with an aarch64 Python and onnxruntime: parity, models, both versions of the operator,
# Python kernels, and the C++ tests of the NEON kernels.
#
#   cpp_ops/wheels.sh linux-aarch64 && tests/platforms/aarch64.sh
#
# Needs apt-get and a network; takes a quarter of an hour. qemu-user before 8 ends onnxruntime by SIGSEGV.
platform=linux-aarch64
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

fetch_debian sid amd64 "$out/qemu" qemu-user
fetch_debian bookworm arm64 "$out/aarch64" python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3.11 \
  libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libncursesw6 \
  libtinfo6 libreadline8
fetch_wheels "$out/aarch64-site" --python-version 3.11 --platform manylinux_2_28_aarch64 \
  --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
  numpy onnx onnxruntime ml_dtypes packaging rich pytest hypothesis expecttest
qemu=("$out/qemu/usr/bin/qemu-aarch64" -L "$out/aarch64")

cmake -S cpp_ops -B "$out/aarch64-tests" -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/zig.cmake -DMYLINEAR_BUILD_TESTS=ON \
  -DMYLINEAR_PYTHON="$PWD/$wheels/bin/python" -DMYLINEAR_ZIG_TARGET=aarch64-linux-gnu.2.17 >"$out/aarch64-tests.log"
tests=(kernel_test matmul_test rounding_test activation_test)
cmake --build "$out/aarch64-tests" --target "${tests[@]}" >>"$out/aarch64-tests.log" ||
  { cat "$out/aarch64-tests.log" >&2; exit 1; }
for test in "${tests[@]}"; do
  echo "$test"
  "${qemu[@]}" "$out/aarch64-tests/tests/$test" | tail -n 1
done

rm -rf "$out/aarch64-wheel"
"$wheels/bin/python" -m zipfile -e "$(ls -t dist/*manylinux_2_17_aarch64.whl | head -1)" "$out/aarch64-wheel"
export MYLINEAR_LIBRARY="$PWD/$out/aarch64-wheel/ort_ops/libmylinear_ort.so" MYLINEAR_EXPECTED_KERNELS="cpp python body"
# Left out: tests that start Python in a process of its own, which only a kernel with binfmt_misc can do.
PYTHONPATH="$PWD:$PWD/$out/aarch64-site" "${qemu[@]}" "$out/aarch64/usr/bin/python3.11" -m pytest -q -p no:cacheprovider \
  tests/native/test_native_parity.py tests/native/test_native_models.py tests/native/test_native_version_2.py \
  tests/native/test_native_sessions.py tests/python_kernels/test_python_kernels.py \
  -k "not subprocess and not process and not fork and not one_thread_means and not pool_takes_part and not thousand_sessions"
