#!/usr/bin/env bash
# Builds the release and runs the tests: scripts/test.sh [unit [SUITE...]].
# Without an argument all of them; of the unit tests all, or those of the layers that are named. The last line is "N passed, N failed"; the exit status is 0 when none failed.
# CUDA=1 in the environment: those of the build with CUDA. CHORALE_RESULTS names the folder for the XML reports (default
# build-release/test-results, emptied first).
set -uo pipefail
cd "$(dirname "$0")/.."

what=${1:-all}
suites=("${@:2}")
readonly build=$([[ -n ${CUDA:-} ]] && echo build-cuda || echo build-release)
results=${CHORALE_RESULTS:-$PWD/$build/test-results}

die() {
  echo "test: $1" >&2
  echo "0 passed, 1 failed"
  exit 1
}

make_venv() {  # the Python packages of tests/cli and tests/e2e, installed again when their list changes
  local venv=.venv list=tests/e2e/requirements.txt
  cmp -s "$list" "$venv/requirements.txt" && return
  python3 -m venv --clear "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$list" &&
    cp "$list" "$venv/requirements.txt"
}

run_ctest() {  # extra ctest arguments; GoogleTest writes one XML report per binary beside ctest's own
  GTEST_OUTPUT="xml:$results/gtest/" ctest --test-dir "$build" --output-on-failure \
    --output-junit "$results/ctest.xml" --parallel "$(nproc)" "$@"
}

scripts/setup.sh test || die "the set-up failed"
scripts/fetch_qwen3_tokenizer.sh || die "the Qwen3 tokenizer could not be fetched"  # the unit tests of text read it
make --no-print-directory build || die "the build failed"
targets=(all)
[[ $what != unit ]] || targets=(unit_tests)
((${#suites[@]} == 0)) || targets=("${suites[@]/%/_tests}")
cmake --build "$build" --target "${targets[@]}" || die "the build of the tests failed"

rm -rf "$results"
mkdir -p "$results/gtest"

case $what in
  unit)
    if ((${#suites[@]} > 0)); then
      run_ctest -R "^($(IFS='|' && echo "${suites[*]}"))(_[0-9]+)?\$"
    else
      run_ctest -L unit
    fi
    ;;
  all)
    make_venv || die "the Python packages of tests/e2e/requirements.txt could not be installed"
    run_ctest
    .venv/bin/python -m pytest -q --timeout 400 tests/cli --junitxml "$results/cli.xml" -o junit_family=xunit2
    CHORALE_JUNIT="$results/e2e.xml" scripts/e2e.sh
    ;;
  *)
    die "unknown argument \"$what\""
    ;;
esac

expected=(ctest.xml)
[[ $what == unit ]] || expected+=(cli.xml e2e.xml)
python3 scripts/count_tests.py "$results" "${expected[@]}"
