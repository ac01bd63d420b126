#!/usr/bin/env bash
# Packs what the tests on a GPU need for a machine that has a driver and Python and nothing of ours: scripts/gpu_bundle.sh
# [FOLDER]. Builds chorale and the GPU's programs with CUDA and puts them stripped into FOLDER (out/gpu), with the libraries
# they are linked to but for the C library's, the bundled models, the end-to-end tests with wheels of the Python packages that
# they need (for PYTHON_VERSIONS), and the runner: FOLDER/gpu_tests.sh. At most 120 MiB; FOLDER.tar.xz has the same.
set -euo pipefail
cd "$(dirname "$0")/.."

bundle=${1:-out/gpu}
readonly build=build-cuda max_kib=$((120 * 1024))
read -ra python_versions <<<"${PYTHON_VERSIONS:-3.12}"
programs=(chorale gpu_tests gpu_comm_tests gpu_bench gpu_light_bench gpu_comm_bench)

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

mkdir -p "$bundle/tests/gpu" "$bundle/docs" "$bundle/wheels"
cp tests/program.py "$bundle/tests/"
cp tests/gpu/numerics.py tests/gpu/strategies.py "$bundle/tests/gpu/"
tar -cf - --exclude=__pycache__ models tests/e2e tests/golden docs/metrics.md | tar -xf - -C "$bundle"
for version in "${python_versions[@]}"; do
  python3 -m pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version "$version" \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 \
    --dest "$bundle/wheels" --requirement tests/e2e/requirements.txt
done

size=$(du -sk "$bundle" | cut -f1)
if ((size > max_kib)); then
  echo "gpu_bundle: $bundle has $size KiB, more than $max_kib" >&2
  exit 1
fi
tar -C "$(dirname "$bundle")" -cJf "$bundle.tar.xz" "$(basename "$bundle")"
echo "$bundle: $size KiB; $bundle.tar.xz: $(du -sk "$bundle.tar.xz" | cut -f1) KiB"
