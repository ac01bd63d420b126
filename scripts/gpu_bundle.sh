#!/usr/bin/env bash
# Packs what the tests on a GPU need for a machine that has a driver and Python and nothing of ours: scripts/gpu_bundle.sh
# [FOLDER]. Builds the GPU's programs with CUDA and puts them stripped into FOLDER (out/gpu), with the libraries they are
# linked to but for the C library's, and the runner: FOLDER/gpu_tests.sh --ops. At most 20 MiB.
set -euo pipefail
cd "$(dirname "$0")/.."

bundle=${1:-out/gpu}
readonly build=build-cuda max_kib=$((20 * 1024))
programs=(gpu_tests gpu_bench gpu_light_bench)

[[ -f $build/build.ninja ]] || cmake --preset cuda
cmake --build "$build" --target "${programs[@]}"

rm -rf "$bundle"
mkdir -p "$bundle/bin" "$bundle/lib"
for program in "${programs[@]}"; do
  strip -o "$bundle/bin/$program" "$build/$program"
  # "libfmt.so.9 => /lib/x86_64-linux-gnu/libfmt.so.9 (0x...)"
  while read -r name _ path _; do
    case $name in
      libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | linux-vdso.so.* | */ld-linux* | ld-linux*) ;;
      *) cp -L "$path" "$bundle/lib/$name" ;;
    esac
  done < <(ldd "$build/$program")
done
cp scripts/gpu_tests.sh "$bundle/"

size=$(du -sk "$bundle" | cut -f1)
if ((size > max_kib)); then
  echo "gpu_bundle: $bundle has $size KiB, more than $max_kib" >&2
  exit 1
fi
echo "$bundle: $size KiB"
