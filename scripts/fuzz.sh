#!/usr/bin/env bash
# Fuzzes the parsers of untrusted files and requests with libFuzzer: scripts/fuzz.sh [SECONDS per target, 20 by default].
# Needs clang with its runtime (Debian: clang-14, libclang-rt-14-dev). New inputs are kept in build-fuzz/corpus; an
# input that fails is left in build-fuzz/findings, and makes the exit status 1.
set -euo pipefail

seconds=${1:-20}
if [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
  echo "fuzz.sh: expected a whole number of seconds, found \"$seconds\"" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
build=build-fuzz

for candidate in clang++ clang++-{20..14}; do
  if command -v "$candidate" >/dev/null; then
    cxx=$candidate
    break
  fi
done
if [[ -z ${cxx:-} ]]; then
  echo "fuzz.sh: clang++ is missing; on Debian: apt-get install clang-14 libclang-rt-14-dev" >&2
  exit 2
fi

mkdir -p "$build/findings"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_C_COMPILER="${cxx/++/}" -DCMAKE_CXX_COMPILER="$cxx" \
  -DCMAKE_C_FLAGS=-fsanitize=fuzzer-no-link -DCMAKE_CXX_FLAGS=-fsanitize=fuzzer-no-link \
  -DCHORALE_SANITIZE=address,undefined -DCHORALE_FUZZERS=ON >"$build/configure.log" 2>&1 ||
  { cat "$build/configure.log" >&2; exit 2; }
cmake --build "$build" --target fuzzers

status=0
for target in safetensors_header config http_request; do
  mkdir -p "$build/corpus/$target"
  dictionary=json
  [[ $target != http_request ]] || dictionary=http
  echo "fuzz.sh: $target for $seconds s"
  if ! "$build/fuzz_$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -malloc_limit_mb=256 \
    -max_len=4096 -dict=tests/fuzz/$dictionary.dict -artifact_prefix="$build/findings/$target-" -print_final_stats=1 \
    "$build/corpus/$target" "tests/fuzz/corpus/$target" >"$build/$target.log" 2>&1; then
    tail -n 60 "$build/$target.log" >&2
    echo "fuzz.sh: $target failed; its input is in $build/findings" >&2
    status=1
  fi
  grep '^stat::' "$build/$target.log" || true
done
exit "$status"
