#!/usr/bin/env bash
# Runs a server for make: scripts/foreground.sh COMMAND...
# At a terminal the command gets a foreground process group of its own, so that Ctrl-C reaches it alone: make then
# sees its exit status, 0 after an orderly end, in place of being interrupted itself.
if [[ ! -t 0 ]]; then exec "$@"; fi

set -m
setpriv --pdeathsig TERM -- "$@"  # when this shell is killed, the command ends too
status=$?
while [[ -n $(jobs -s) ]]; do  # Ctrl-Z: there is no shell here to return to
  fg %% >/dev/null
  status=$?
done
exit "$status"
