#!/usr/bin/env bash
# Runs the tests of deploy/, against build/chorale: scripts/deploy_tests.sh [pytest arguments].
# Needs the Debian packages prometheus, dpkg-dev and file, and skips what it cannot run without them. The last line is
# "N passed, N failed"; the exit status is 0 when none failed. CHORALE_BINARY names another binary.
set -uo pipefail
cd "$(dirname "$0")/.."

readonly venv=.venv list=tests/e2e/requirements.txt
if ! cmp -s "$list" "$venv/requirements.txt"; then
  python3 -m venv --clear "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$list" &&
    cp "$list" "$venv/requirements.txt" || { echo "0 passed, 1 failed"; exit 1; }
fi
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
"$venv/bin/python" -m pytest -q -p no:cacheprovider tests/deploy --junitxml "$results/deploy.xml" -o junit_family=xunit2 "$@"
python3 scripts/count_tests.py "$results" deploy.xml
