#!/usr/bin/env bash
# Builds one wheel for each platform, on Linux, by `zig c++` of the Python package ziglang, and checks what is in it:
#
#   cpp_ops/wheels.sh [PLATFORM...]      # default: all of them, into dist/
#
# A wheel serves every Python from 3.11 on: the library knows no Python, so wheels differ by the library and the tag
# alone. Needs python3 with venv, and a network for pip; takes about 5 minutes of one core for an x86-64 library.
set -euo pipefail
cd "$(dirname "$0")/.."

# platform: target of zig, tag of the wheel
declare -A TARGETS=(
  [linux-x86_64]="x86_64-linux-gnu.2.17 manylinux2014_x86_64.manylinux_2_17_x86_64"
  [linux-aarch64]="aarch64-linux-gnu.2.17 manylinux2014_aarch64.manylinux_2_17_aarch64"
  [windows-x86_64]="x86_64-windows-gnu win_amd64"
  [macos-arm64]="aarch64-macos.11.0 macosx_11_0_arm64"
  [macos-x86_64]="x86_64-macos.11.0 macosx_11_0_x86_64"
)
ORDER=(linux-x86_64 linux-aarch64 windows-x86_64 macos-arm64 macos-x86_64)
[ $# -gt 0 ] || set -- "${ORDER[@]}"
for platform in "$@"; do
  [ -n "${TARGETS[$platform]:-}" ] || { echo "wheels.sh: PLATFORM must be one of ${ORDER[*]}, got $platform" >&2; exit 2; }
done

out=build/wheels
mkdir -p "$out" dist
[ -x "$out/venv/bin/python" ] || python3 -m venv "$out/venv"
"$out/venv/bin/pip" install -q -c constraints.txt build wheel cmake ninja ziglang lief
export PATH="$PWD/$out/venv/bin:$PATH"

rm -rf "$out/plain" "$out/files"
python -m build --wheel -Cwheel.cmake=false --outdir "$out/plain" . >"$out/plain.log" 2>&1 ||
  { cat "$out/plain.log" >&2; exit 1; }
wheel unpack --dest "$out/files" "$out"/plain/*.whl >/dev/null
unpacked=$(echo "$out"/files/*)
metadata=$(echo "$unpacked"/*.dist-info/WHEEL)

for platform in "$@"; do
  read -r target tags <<<"${TARGETS[$platform]}"
  cmake -S cpp_ops -B "$out/$platform" -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/zig.cmake \
    -DMYLINEAR_PYTHON="$(command -v python)" -DMYLINEAR_ZIG_TARGET="$target" >"$out/$platform.log"
  cmake --build "$out/$platform" >>"$out/$platform.log" || { cat "$out/$platform.log" >&2; exit 1; }
  rm -rf "$unpacked"/ort_ops/libmylinear_ort.* "$unpacked/ort_ops/include"
  cmake --install "$out/$platform" --prefix "$unpacked" >>"$out/$platform.log"
  sed -i -e '/^Tag:/d' -e '/^Root-Is-Purelib:/d' "$metadata"
  printf 'Root-Is-Purelib: false\n' >>"$metadata"
  printf 'Tag: py3-none-%s\n' ${tags//./ } >>"$metadata"
  sed -i '/^$/d' "$metadata"
  wheel pack --dest-dir dist "$unpacked" >/dev/null
  python cpp_ops/check_wheel.py "$platform" dist/*-py3-none-"$tags".whl
done
