#!/usr/bin/env bash
# The Windows library under wine, in onnxruntime's own onnxruntime.dll: the models of models/ by the kernel and by the
# body, bit for bit what Python says on Linux.
#
#   cpp_ops/wheels.sh windows-x86_64 && tests/platforms/windows.sh PYTHON
#
# PYTHON has this package, built for this machine by a compiler of its own. Needs Debian's wine64, and a network.
platform=windows-x86_64
python=$(realpath -s "${1:?usage: windows.sh PYTHON}")
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

wine=$(command -v wine64 || ls /usr/lib/wine/wine64) || { echo "wine is missing: apt-get install wine64" >&2; exit 2; }
fetch_debian sid amd64 "$out/headers" libonnxruntime-dev
fetch_wheels "$out/windows" --no-deps --platform win_amd64 --python-version 3.11 onnxruntime msvc-runtime

work=$out/windows-host
mkdir -p "$work"
printf 'LIBRARY onnxruntime.dll\nEXPORTS\nOrtGetApiBase\n' >"$work/onnxruntime.def"
zig="$wheels/bin/python -m ziglang"
$zig dlltool -m i386:x86-64 -d "$work/onnxruntime.def" -l "$work/onnxruntime.lib"
$zig c++ -target x86_64-windows-gnu -std=c++17 -O1 -I"$out/headers/usr/include/onnxruntime" tests/platforms/host.cc \
  "$work/onnxruntime.lib" -o "$work/host.exe"
cp "$out"/windows/onnxruntime/capi/*.dll "$out"/windows/msvc_runtime*.data/data/Scripts/*.dll "$work"
cp "$(ls -t dist/*-win_amd64.whl | head -1)" "$work/wheel.zip"
"$wheels/bin/python" -m zipfile -e "$work/wheel.zip" "$work/wheel"
cp "$work/wheel/ort_ops/libmylinear_ort.dll" models/*.onnx "$work"

export WINEPREFIX="$PWD/$out/prefix" WINEDEBUG=-all
"$python" tests/platforms/compare.py "$work" libmylinear_ort.dll "$wine" host.exe
