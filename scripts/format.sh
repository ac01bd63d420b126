#!/usr/bin/env bash
# Formats all C++ and Rust sources in place; with --check only says which files are not formatted.
set -euo pipefail
cd "$(dirname "$0")/.."

check=false
case ${1:-} in
  '') ;;
  --check) check=true ;;
  *)
    echo "usage: scripts/format.sh [--check]" >&2
    exit 2
    ;;
esac

clang_format=$(command -v clang-format-14 || true)
if [[ -z $clang_format ]]; then
  echo "format: clang-format-14 is not installed (Debian package clang-format-14)" >&2
  exit 1
fi
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
if ! command -v rustfmt >/dev/null; then
  echo "format: rustfmt is not installed (rustup component rustfmt, or Debian package rustfmt-web)" >&2
  exit 1
fi

mapfile -t cpp_files < <(find src tests bench -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh')
mapfile -t rust_files < <(find crates -name target -prune -o -name '*.rs' -print)
status=0
if $check; then
  ((${#cpp_files[@]} == 0)) || "$clang_format" --dry-run --Werror "${cpp_files[@]}" || status=1
  ((${#rust_files[@]} == 0)) || rustfmt --check --edition 2021 "${rust_files[@]}" || status=1
else
  ((${#cpp_files[@]} == 0)) || "$clang_format" -i "${cpp_files[@]}"
  ((${#rust_files[@]} == 0)) || rustfmt --edition 2021 "${rust_files[@]}"
fi
exit "$status"
