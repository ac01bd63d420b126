#!/usr/bin/env bash
# Runs a test program of GoogleTest for ctest: tests/unit/run.sh NAME PROGRAM. Where GTEST_OUTPUT names a folder for
# reports, this one is NAME_tests.xml, since parts of a program run beside each other.
set -euo pipefail
if [[ ${GTEST_OUTPUT:-} == */ ]]; then
  export GTEST_OUTPUT=${GTEST_OUTPUT}$1_tests.xml
fi
exec "$2"
