#!/usr/bin/env bash
# Tests the server's page in headless Chromium (Debian's package chromium; CHROMIUM names another binary), with a real
# server (CHORALE_BINARY, by default build/chorale) and with a stub. The page is web/dist as it is in the tree.
# Arguments go to node --test, e.g. --test-name-pattern=charts.
# The last line is "N passed, N failed"; the exit status is 0 when none failed.
set -uo pipefail
cd "$(dirname "$0")/../.."

fail() {
  echo "tests/web: $1" >&2
  echo "0 passed, 1 failed"
  exit 1
}

export CHORALE_BINARY=${CHORALE_BINARY:-$PWD/build/chorale} CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
[[ -x $CHORALE_BINARY ]] || fail "$CHORALE_BINARY is not built; run make build"
[[ -x $CHROMIUM ]] || fail "$CHROMIUM is missing; apt-get install chromium"
command -v node >/dev/null || fail "node is missing; version 20.19 or newer is needed"

report=$(mktemp)
trap 'rm -f "$report"' EXIT
(cd tests/web && npm ci --silent --no-audit --no-fund) || fail "npm ci failed"
node --test --test-concurrency=1 \
  --test-reporter=spec --test-reporter-destination=stdout \
  --test-reporter=tap --test-reporter-destination="$report" \
  "$@" tests/web/server.test.mjs tests/web/stub.test.mjs
status=$?

count() {  # KIND: of the report's summary
  local number
  number=$(sed -n "s/^# $1 \([0-9]*\)$/\1/p" "$report" | tail -n 1)
  echo "${number:-0}"
}
passed=$(count pass)
failed=$(($(count fail) + $(count cancelled)))
if ((status != 0 && failed == 0)); then failed=1; fi
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
