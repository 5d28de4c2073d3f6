# Sourced by the scripts beside it: what they fetch, into build/platforms, and only once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=build/platforms
mkdir -p "$out/deb"
wheels=build/wheels/venv  # made by cpp_ops/wheels.sh
[ -x "$wheels/bin/python" ] || { echo "run cpp_ops/wheels.sh $platform first" >&2; exit 2; }
onnxruntime=$(sed -n 's/^onnxruntime==//p' constraints.txt)

# fetch_debian SUITE ARCHITECTURE FOLDER PACKAGE...: unpacks packages of Debian into a folder
fetch_debian() {
  local suite=$1 architecture=$2 folder=$3
  shift 3
  [ ! -d "$folder" ] || return 0
  local state
  state="$PWD/$out/apt-$suite-$architecture"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/deb"
  echo "deb [trusted=yes arch=$architecture] http://deb.debian.org/debian $suite main" >"$state/sources.list"
  local apt=(apt-get -qq -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/nonexistent
    -o Dir::State::lists="$state/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$state/cache"
    -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$state/deb" && "${apt[@]}" download "$@")
  mkdir -p "$folder.part"
  for package in "$state"/deb/*.deb; do dpkg-deb -x "$package" "$folder.part"; done
  mv "$folder.part" "$folder"
}

# fetch_wheels FOLDER PIP-OPTION...: unpacks wheels for another platform into a folder
fetch_wheels() {
  local folder=$1
  shift
  [ ! -d "$folder" ] || return 0
  "$wheels/bin/pip" download -q --only-binary=:all: -c constraints.txt -d "$folder.wheels" "$@"
  mkdir -p "$folder.part"
  for wheel in "$folder.wheels"/*.whl; do "$wheels/bin/python" -m zipfile -e "$wheel" "$folder.part"; done
  mv "$folder.part" "$folder"
}
