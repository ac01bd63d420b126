#!/usr/bin/env bash
# Starts a real server under each of the named strategies, asks it for one completion, and compares the text with
# that of the simple strategy. One line per configuration; the exit status is 0 when all answered the same.
set -uo pipefail
cd "$(dirname "$0")/.."

readonly binary=${CHORALE_BINARY:-build/chorale} model=${MODEL:-models/tales-moe}
readonly simple="--tp-size 1 --dp-size 1"
readonly ep="--tp-size 4 --dp-size 2 --enable-ep-moe --ep-size 8"
readonly tp="--tp-size 8 --dp-size 1"
readonly patience=120  # seconds for a start, and for an answer

usage() {
  cat <<END
Usage: scripts/run_tests.sh --simple | --ep | --tp | --all

Runs chorale serve on a free port, asks for one sampled completion, stops it, and compares the text with that of the
simple strategy.

  --simple  $simple
  --ep      $ep
  --tp      $tp
  --all     these three

MODEL names another checkpoint's folder, CHORALE_BINARY another binary. The exit status is 0 when every configuration
started, answered with the same text and stopped in order, 1 when one did not, 2 for a mistake in the command line.
END
}

server=  # process id of the one that runs
folder=$(mktemp -d)
trap '[[ -n $server ]] && kill -KILL "$server" 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

wait_for_url() {  # prints the address once the server is ready; fails when it ends or takes too long
  local deadline=$((SECONDS + patience)) url
  while kill -0 "$server" 2>/dev/null && ((SECONDS < deadline)); do
    url=$(sed -n 's/.*Chorale is ready: \(http[^ ]*\).*/\1/p' "$folder/log")
    [[ -n $url ]] && echo "$url" && return
    sleep 0.05
  done
  return 1
}

ask() {  # URL: prints the text of one completion
  python3 - "$1" "$patience" <<'END'
import json, sys, urllib.request

url, patience = sys.argv[1:]
body = {"prompt": "Once upon a time there was a king who", "max_tokens": 32, "temperature": 1, "seed": 7,
        "ignore_eos": True}
headers = {"Content-Type": "application/json"}
request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), headers)
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(json.load(direct.open(request, timeout=float(patience)))["choices"][0]["text"])
END
}

reason() {  # of the server's end, from its log
  grep -m 1 -E '^chorale: | (error|critical) ' "$folder/log" || tail -n 1 "$folder/log"
}

run() {  # FLAGS: leaves the text in $folder/text; else says what went wrong in $folder/why
  local url status=0
  # shellcheck disable=SC2086  # the flags are words
  "$binary" serve --model-path "$model" --port 0 $1 </dev/null >/dev/null 2>"$folder/log" &
  server=$!
  if ! url=$(wait_for_url); then
    status=1
    echo "the server did not start: $(reason)" >"$folder/why"
    kill -KILL "$server" 2>/dev/null
  elif ! ask "$url" >"$folder/text" 2>"$folder/errors"; then
    status=1
    echo "no answer: $(tail -n 1 "$folder/errors")" >"$folder/why"
    kill -KILL "$server" 2>/dev/null
  else
    kill -TERM "$server"
  fi
  if ! wait "$server" 2>/dev/null && ((status == 0)); then
    status=1
    echo "the server did not stop in order: $(reason)" >"$folder/why"
  fi
  server=
  return $status
}

report() {  # NAME FLAGS RESULT
  printf '%-7s %-56s %s\n' "$1" "$2" "$3"
}

failed=0
check() {  # NAME FLAGS
  local start=${EPOCHREALTIME/,/.}
  if ! run "$2"; then
    report "$1" "$2" "FAILED: $(<"$folder/why")"
    failed=1
  elif ! cmp -s "$folder/text" "$folder/expected"; then
    report "$1" "$2" "FAILED: its text differs from that of the simple strategy"
    failed=1
  else
    report "$1" "$2" "ok, the same text in $(python3 -c "print(f'{${EPOCHREALTIME/,/.} - $start:.1f}')") s"
  fi
}

case ${1:-} in
  --simple | --ep | --tp) chosen=("${1#--}") ;;
  --all) chosen=(simple ep tp) ;;
  -h | --help) usage && exit ;;
  *) usage >&2 && exit 2 ;;
esac
if (($# > 1)); then usage >&2 && exit 2; fi

if [[ ! -x $binary ]]; then
  echo "run_tests: $binary is not built; run make build" >&2
  exit 1
fi
if ! run "$simple"; then  # what the others must answer
  report simple "$simple" "FAILED: $(<"$folder/why")"
  exit 1
fi
mv "$folder/text" "$folder/expected"
for name in "${chosen[@]}"; do check "$name" "${!name}"; done
exit $failed
