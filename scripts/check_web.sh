#!/usr/bin/env bash
# Checks the page that the server shows: types, unit tests, and that web/dist is, byte for byte, what web/ makes.
# Works in a temporary folder with the packages of web/package-lock.json. Needs npm; where Node is older than
# 20.19, which Vite needs, npm fetches a newer one into that folder.
# The last line is "N passed, N failed"; the exit status is 0 when none failed.
set -uo pipefail
cd "$(dirname "$0")/.."

passed=0
failed=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

check() {  # NAME COMMAND...
  local name=$1
  shift
  if (set -e; "$@") >"$folder/log" 2>&1; then
    passed=$((passed + 1))
    echo "passed: $name"
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
    tail -n 30 "$folder/log"
  fi
}

in_copy() { (cd "$folder/web" && "$@"); }

mkdir "$folder/web"
tar -C web --exclude=./node_modules --exclude=./dist -cf - . | tar -C "$folder/web" -xf -

if ! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)'; then
  check "a newer Node" npm install --silent --no-audit --no-fund --prefix "$folder/node" node@22
  export PATH=$folder/node/node_modules/.bin:$PATH
fi
check "packages" in_copy npm ci --no-audit --no-fund
check "types" in_copy npm run typecheck
check "unit tests" in_copy npm test
check "build" in_copy npm run build
for name in $({ ls "$folder/web/dist"; ls web/dist; } 2>/dev/null | sort -u); do
  check "web/dist/$name is what the sources make" cmp "$folder/web/dist/$name" "web/dist/$name"
done

echo "$passed passed, $failed failed"
((failed == 0 && passed > 4))
