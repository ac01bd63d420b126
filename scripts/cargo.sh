#!/usr/bin/env bash
# Runs a cargo that is new enough for crates/: scripts/cargo.sh [cargo's arguments]. It is searched on PATH, then where
# rustup puts it. crates/Cargo.toml says which Rust is the oldest (rust-version).
#   --minimum  prints that version and ends
# The exit status is 127 when no such cargo is there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
minimum=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$here/../crates/Cargo.toml")

if [[ ${1:-} == --minimum ]]; then
  echo "$minimum"
  exit
fi

at_least() {  # VERSION MINIMUM, of two numbers each
  local major=${1%%.*} minor=${1#*.}
  ((major > ${2%%.*} || (major == ${2%%.*} && minor >= ${2#*.})))
}

cargo=
found="none was found"
for candidate in "$(command -v cargo || true)" "${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo"; do
  [[ -x $candidate ]] || continue
  line=$("$candidate" --version 2>/dev/null) || continue  # "cargo 1.96.0 (...)"
  [[ $line =~ ^cargo\ ([0-9]+\.[0-9]+) ]] || continue
  version=${BASH_REMATCH[1]}
  if at_least "$version" "$minimum"; then
    cargo=$candidate
    break
  fi
  found="$candidate says \"$line\""
done
if [[ -z $cargo ]]; then
  echo "cargo of Rust $minimum or newer is needed; $found. Install it with" \
    "\"apt-get install cargo-web rustc-web\" on Debian 12, or from https://rustup.rs." >&2
  exit 127
fi

# Debian 12 without its security updates has Rust 1.85, and llguidance asks for 1.87: see scripts/rustc_before_1.87.sh.
if ! at_least "$version" 1.87; then
  export RUSTC_WRAPPER=$here/rustc_before_1.87.sh
  case ${1:-} in
    build | check | test) set -- "$1" --ignore-rust-version "${@:2}" ;;
  esac
fi
exec "$cargo" "$@"
