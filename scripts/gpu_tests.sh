#!/usr/bin/env bash
# Runs the tests on a GPU, from a bundle (scripts/gpu_bundle.sh) or from a checkout that was built with CUDA:
#   gpu_tests.sh [--ops] [--sanitizers] [--bench] [--filter PATTERN] [--results FOLDER]
#   --ops         every op against its reference (the default)
#   --sanitizers  the same under compute-sanitizer: memcheck, racecheck and initcheck
#   --bench       what the ops take, beside what their bytes and products would; each program counts as one test
#   --filter      of GoogleTest, for --ops and --sanitizers
#   --numerics and --e2e are not there yet: no model runs on a GPU yet.
# Reports, JSON of GoogleTest, and logs go to FOLDER (gpu-results). The last line is "N passed, N failed"; the exit status is 0
# when none failed.
set -uo pipefail
cd "$(dirname "$0")" || exit

readonly limit_s=240  # of one program; a kernel that hangs is a failure
modes=()
filter='*'
results=$PWD/gpu-results
while (($#)); do
  case $1 in
    --ops | --sanitizers | --bench) modes+=("${1#--}") ;;
    --numerics | --e2e)
      echo "gpu_tests: $1 is not there yet" >&2
      exit 2
      ;;
    --filter) filter=${2:?} && shift ;;
    --results) results=$(realpath -m "${2:?}") && shift ;;
    *)
      sed -n '3,9s/^# *//p' "$0" >&2
      exit 2
      ;;
  esac
  shift
done
((${#modes[@]})) || modes=(ops)

programs=bin
if [[ ! -d bin ]]; then programs=../build-cuda; fi  # in a checkout
export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir -p "$results"
passed=0
failed=0

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>/dev/null

run_ops() {  # NAME COMMAND...: the op tests under a command
  local name=$1 start=$SECONDS counts
  shift
  echo "== $name"
  timeout "$limit_s" "$@" "$programs/gpu_tests" --gtest_filter="$filter" --gtest_brief=1 \
    --gtest_output="json:$results/$name.json" >"$results/$name.log" 2>&1
  local status=$?
  # A program that crashed, or was stopped, has no report, or one that says less than its exit status.
  counts=$(python3 -c '
import json, sys
try:
    report = json.load(open(sys.argv[1]))
    print(report["tests"] - report["failures"] - report["disabled"], report["failures"])
except (OSError, ValueError):
    print(0, 0)
' "$results/$name.json")
  local ok=${counts% *} bad=${counts#* }
  if ((status != 0 && bad == 0)) || ((ok + bad == 0)); then bad=$((bad + 1)); fi
  passed=$((passed + ok))
  failed=$((failed + bad))
  ((bad == 0)) || tail -n 60 "$results/$name.log"
  echo "== $name: $ok passed, $bad failed, exit status $status, $((SECONDS - start)) s"
}

for mode in "${modes[@]}"; do
  case $mode in
    ops)
      rm -f "$results/ops.json"
      run_ops ops env
      ;;
    sanitizers)
      if ! command -v compute-sanitizer >/dev/null; then
        PATH=$PATH:/usr/local/cuda/bin
        if ! command -v compute-sanitizer >/dev/null; then
          echo "gpu_tests: compute-sanitizer is not installed; it is part of the CUDA toolkit" >&2
          failed=$((failed + 1))
          continue
        fi
      fi
      for tool in memcheck racecheck initcheck; do
        rm -f "$results/$tool.json"
        # Calls that fail are for the tests to judge: some are meant to.
        run_ops "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 --report-api-errors no
      done
      ;;
    bench)
      for program in gpu_light_bench gpu_bench; do
        echo "== $program"
        if timeout "$limit_s" "$programs/$program" 2>&1 | tee "$results/$program.log"; then
          passed=$((passed + 1))
        else
          failed=$((failed + 1))
        fi
      done
      ;;
  esac
done

echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
