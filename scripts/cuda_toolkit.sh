#!/usr/bin/env bash
# Finds or installs a CUDA compiler: scripts/cuda_toolkit.sh [--print].
# A toolkit on PATH or in /usr/local/cuda of version 12.8 or newer is taken as it is. Else the packages of
# scripts/cuda_requirements.txt go from PyPI into .cuda/ (280 MB; neither root nor a GPU is needed).
#   --print   only say which toolkit there is: the folder that holds bin/nvcc, or nothing
set -euo pipefail
cd "$(dirname "$0")/.."

readonly min_major=12 min_minor=8
readonly wheels=.cuda list=scripts/cuda_requirements.txt
readonly home=$wheels/nvidia/cu13

# Prints the folder of a toolkit that is new enough, or nothing.
find_toolkit() {
  local nvcc version
  for nvcc in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    [[ -x $nvcc ]] || continue
    version=$("$nvcc" --version 2>/dev/null) || continue  # "..., release 13.0, V13.0.88"
    if [[ $version =~ release\ ([0-9]+)\.([0-9]+) ]] && ((BASH_REMATCH[1] > min_major ||
      (BASH_REMATCH[1] == min_major && BASH_REMATCH[2] >= min_minor))); then
      dirname "$(dirname "$(readlink -f "$nvcc")")"
      return
    fi
  done
  if cmp -s "$list" "$wheels/requirements.txt"; then echo "$PWD/$home"; fi
}

toolkit=$(find_toolkit)
if [[ ${1:-} == --print ]]; then
  echo "$toolkit"
  exit 0
fi
[[ -z $toolkit ]] || exit 0

echo "setup: installing the CUDA compiler into $wheels" >&2
rm -rf "$wheels"
PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
  --target "$wheels" -r "$list" >&2
# What compilers and CMake expect of a toolkit's folder, and the packages leave out.
ln -s lib "$home/lib64"
ln -s libcudart.so.13 "$home/lib/libcudart.so"
cp "$list" "$wheels/requirements.txt"  # last: the mark of a whole installation
