#!/usr/bin/env bash
# Runs the end-to-end tests against build/chorale: scripts/e2e.sh [pytest arguments].
# CHORALE_BINARY names another binary, CHORALE_JUNIT a file for the XML report.
set -euo pipefail
cd "$(dirname "$0")/.."

# The Python packages live in .venv, installed again when their list changes.
readonly venv=.venv list=tests/e2e/requirements.txt
if ! cmp -s "$list" "$venv/requirements.txt"; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$list"
  cp "$list" "$venv/requirements.txt"
fi

report=()
if [[ -n ${CHORALE_JUNIT:-} ]]; then report=(--junitxml "$CHORALE_JUNIT" -o junit_family=xunit2); fi
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider --timeout 400 tests/e2e "${report[@]}" "$@"
