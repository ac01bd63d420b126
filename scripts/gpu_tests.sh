#!/usr/bin/env bash
# Runs the tests on a GPU, from a bundle (scripts/gpu_bundle.sh) or from a checkout that was built with CUDA:
#   gpu_tests.sh [--ops] [--comm] [--numerics] [--strategies] [--e2e] [--bench] [--comm-bench] [--sanitizers]
#                [--filter PATTERN] [--device DEVICE] [--only WORD] [--results FOLDER]
# --ops, --numerics, --e2e and --bench by default.
#   --ops         every op against its reference
#   --comm        collectives of ranks on one GPU, and on two where there are; NCCL's where CHORALE_NCCL names it, or Python has it
#   --strategies  bits of every strategy on two GPUs, or with all ranks on one (tests/gpu/strategies.py); --only: as it has it
#   --comm-bench  what collectives take
#   --numerics    the numerics contract and the accuracy of served models (tests/gpu/numerics.py)
#   --e2e         the end-to-end tests, their servers with --device DEVICE; needs the Python packages of
#                 tests/e2e/requirements.txt, of which those that are missing are installed from the bundle's wheels into the results
#   --sanitizers  the same under compute-sanitizer: memcheck, racecheck and initcheck
#   --bench       what the ops take, beside what their bytes and products would; each program counts as one test
#   --filter      of GoogleTest, for --ops and --sanitizers
#   --device      for --numerics and --e2e (cuda); with cpu they can be tried on a machine without a GPU
# Reports, JSON of GoogleTest, and logs go to FOLDER (gpu-results). The last line is "N passed, N failed"; the exit status is 0
# when none failed.
set -uo pipefail
cd "$(dirname "$0")" || exit

readonly limit_s=240  # of one program; a kernel that hangs is a failure
modes=()
filter='*'
only=()
device=cuda
results=$PWD/gpu-results
while (($#)); do
  case $1 in
    --ops | --comm | --numerics | --strategies | --e2e | --bench | --comm-bench | --sanitizers) modes+=("${1#--}") ;;
    --only) only+=(--only "${2:?}") && shift ;;
    --device) device=${2:?} && shift ;;
    --filter) filter=${2:?} && shift ;;
    --results) results=$(realpath -m "${2:?}") && shift ;;
    *)
      sed -n '3,20s/^# *//p' "$0" >&2
      exit 2
      ;;
  esac
  shift
done
((${#modes[@]})) || modes=(ops numerics e2e bench)

programs=$PWD/bin
root=$PWD
if [[ ! -d bin ]]; then  # in a checkout
  root=$(realpath ..)
  programs=$root/build-cuda
fi
export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir -p "$results"
passed=0
failed=0

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader 2>/dev/null

if [[ -z ${CHORALE_NCCL:-} ]]; then  # as pip installs it
  CHORALE_NCCL=$(python3 -c '
import sys
from pathlib import Path
found = [file for folder in sys.path for file in Path(folder).glob("nvidia/nccl/lib/libnccl.so.2")]
print(found[0] if found else "")
' 2>/dev/null)
  if [[ -n $CHORALE_NCCL ]]; then export CHORALE_NCCL; else unset CHORALE_NCCL; fi
fi

run_ops() {  # NAME COMMAND...: the op tests, or those of $program, under a command
  local name=$1 start=$SECONDS counts
  shift
  echo "== $name"
  timeout "$limit_s" "$@" "$programs/${program:-gpu_tests}" --gtest_filter="$filter" --gtest_brief=1 \
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

add_counts() {  # LOG: of a program whose last line is "N passed, N failed"
  local ok bad
  if read -r ok _ bad _ < <(tail -n 1 "$1") && [[ $ok =~ ^[0-9]+$ && $bad =~ ^[0-9]+$ ]]; then
    passed=$((passed + ok))
    failed=$((failed + bad))
  else
    failed=$((failed + 1))
  fi
}

run_numerics() {
  local more=()
  [[ $device != cpu ]] || more=(--small)
  timeout 900 python3 "$root/tests/gpu/numerics.py" --binary "$programs/chorale" --models "$root/models" \
    --golden "$root/tests/golden" --device "$device" --results "$results" "${more[@]}" 2>&1 | tee "$results/numerics.log"
  add_counts "$results/numerics.log"
}

run_strategies() {
  local more=() gpus
  gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
  case $device in
    cpu | ref) more=(--small) ;;
    *) more=(--gpus "$((gpus > 1 ? 2 : 1))") ;;
  esac
  timeout 1200 python3 "$root/tests/gpu/strategies.py" --binary "$programs/chorale" --models "$root/models" \
    --device "$device" --results "$results" "${more[@]}" "${only[@]}" 2>&1 | tee "$results/strategies.log"
  add_counts "$results/strategies.log"
}

# What such a machine cannot have: the clients of tests/conformance come from npm. Tests that need MPI, or what the CPU alone can
# do, are skipped by themselves and named in the log.
readonly e2e_without=(test_conformance.py)

run_e2e() {
  local packages=$results/python report=$results/e2e.xml name line more=()
  local missing=()
  while IFS= read -r line; do
    name=${line%%==*}
    [[ $line == *==* ]] || continue
    PYTHONPATH=$packages python3 -c "import $name" 2>/dev/null || missing+=("$line")
  done <"$root/tests/e2e/requirements.txt"
  if ((${#missing[@]})); then
    echo "installing ${missing[*]}"
    python3 -m pip install --quiet --disable-pip-version-check --no-index --find-links "$root/wheels" --target "$packages" \
      "${missing[@]}" || echo "gpu_tests: the bundle has no wheels of them for this Python" >&2
  fi
  for name in "${e2e_without[@]}"; do more+=(--ignore "$root/tests/e2e/$name"); done
  rm -f "$report"
  echo "without ${e2e_without[*]}"
  local where="--device $device"
  [[ $device != cuda* ]] || where+=" --ranks-per-gpu 8"  # strategies of several ranks on one GPU
  CHORALE_BINARY=$programs/chorale CHORALE_E2E_ARGS=$where PYTHONPATH=$packages PYTHONDONTWRITEBYTECODE=1 \
    timeout 1200 python3 -m pytest -v -rs -p no:cacheprovider -o junit_family=xunit2 --junitxml "$report" "${more[@]}" \
    "$root/tests/e2e" >"$results/e2e.log" 2>&1
  local status=$?
  grep -E '^(SKIPPED|FAILED|ERROR) ' "$results/e2e.log" || tail -n 20 "$results/e2e.log"
  python3 - "$report" "$status" "$results/e2e.json" <<'EOF' | tee "$results/e2e-counts.log"
import json, sys
import xml.etree.ElementTree as ElementTree
report, status, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
tests = []
try:
    for case in ElementTree.parse(report).iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        result = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        tests.append({"name": f"{case.get('classname')}.{case.get('name')}", "result": result, "seconds": float(case.get("time"))})
except (OSError, ElementTree.ParseError):
    pass
count = {result: sum(test["result"] == result for test in tests) for result in ("passed", "failed", "skipped")}
if status != 0 and count["failed"] == 0:
    count["failed"] = 1  # stopped, or never begun
json.dump(count | {"exit_status": status, "tests": tests}, open(out, "w"), indent=1)
print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
EOF
  add_counts "$results/e2e-counts.log"
}

for mode in "${modes[@]}"; do
  case $mode in
    numerics | e2e | strategies)
      echo "== $mode"
      "run_$mode"
      ;;
    ops)
      rm -f "$results/ops.json"
      run_ops ops env
      ;;
    comm)
      rm -f "$results/comm.json"
      program=gpu_comm_tests run_ops comm env
      ;;
    comm-bench)
      echo "== gpu_comm_bench"
      if timeout "$limit_s" "$programs/gpu_comm_bench" 2>&1 | tee "$results/gpu_comm_bench.log"; then
        passed=$((passed + 1))
      else
        failed=$((failed + 1))
      fi
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
