#!/usr/bin/env bash
# README's first command on a bare Debian 12, then the unit tests there: tests/bare/run.sh, as root.
#
# debootstrap makes the smallest Debian 12 that has make and git, from its main archive alone, so without the newer
# compilers of its security updates. This checkout's HEAD is cloned into it, to a path with a space in it. Nothing else is
# reused but downloaded packages, in .cache/bare, and, where CCACHE_NAMESPACE is set, what the compiler's cache holds of
# the same compiler, headers and sources. Checked are: what a user without root and sudo is told; `make run`, until
# it has answered README's question and has stopped in order; `make run` again, without a network; the unit tests of the
# layers whose libraries are Debian's or whose crates its compiler builds. Left out is what `make test` covers outside:
# the unit tests of the other layers, the layering, MPI, the command line, the end-to-end tests.
#
# Needs the package debootstrap, and right to make mounts, which are in a namespace of their own and end with it. Asks
# the network as this machine does: apt's Acquire settings, proxies, certificates, pip's, npm's and cargo's settings are
# copied. CHORALE_DEBIAN_MIRROR names another mirror than deb.debian.org. Takes 4 GB below TMPDIR (/var/tmp) while it runs.
# The last line is "N passed, N failed"; the exit status is 0 when none failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly mirror=${CHORALE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
readonly packages=$PWD/.cache/bare
readonly place="/root/a path with spaces/chorale"  # of the clone, in the root
readonly patience=3000                             # seconds for a build
readonly apt_settings='^Acquire::(http|https|Check-Valid-Until|Check-Date|Retries|ForceIPv)'
passed=0
failed=0

# ---- outside: a folder and a namespace, and both are gone afterwards ----

if [[ ${1:-} != --inside ]]; then
  if ((EUID != 0)) || ! command -v debootstrap >/dev/null; then
    echo "bare: this needs root, and the package debootstrap" >&2
    echo "0 passed, 1 failed"
    exit 1
  fi
  work=$(mktemp -d "${TMPDIR:-/var/tmp}/chorale-bare.XXXXXX")
  inside=
  clean_up() {
    if [[ -n $inside ]]; then
      kill -KILL "$inside" 2>/dev/null  # and with it all that runs in its namespace
      wait "$inside" 2>/dev/null
    fi
    # From here the mounts below it were never to be seen.
    rm -rf --one-file-system "$work" || { sleep 2 && rm -rf --one-file-system "$work"; }
  }
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
    "$PWD/tests/bare/run.sh" --inside "$work" </dev/null &
  inside=$!
  wait "$inside"
  status=$?
  inside=
  exit "$status"
fi

# ---- inside ----

readonly work=$2
readonly root=$work/root

# What a command in the root has in its environment: what a login gives, and the way to the network.
environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb)
readonly certificates=(SSL_CERT_FILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS PIP_CERT CARGO_HTTP_CAINFO)
for name in {http,https,ftp,all,no}_proxy {HTTP,HTTPS,FTP,ALL,NO}_PROXY PIP_INDEX_URL CARGO_HTTP_PROXY \
  npm_config_registry "${certificates[@]}"; do
  [[ -z ${!name:-} ]] || environment+=("$name=${!name}")
done

# The cache is read, never written: it has what was compiled with warnings as errors alone.
if [[ -n ${CCACHE_NAMESPACE:-} ]]; then
  environment+=(CCACHE_DIR=/var/cache/ccache CCACHE_READONLY=1 "CCACHE_NAMESPACE=$CCACHE_NAMESPACE" CCACHE_NOHASHDIR=1
    "CCACHE_BASEDIR=$place" "CCACHE_IGNOREOPTIONS=${CCACHE_IGNOREOPTIONS:-}")
fi

in_root() {  # COMMAND...: as root, in the clone
  chroot "$root" env -i HOME=/root "${environment[@]}" sh -c 'cd "$1" && shift && exec "$@"' sh "$place" "$@"
}

as_nobody() {  # COMMAND...: in the clone
  chroot --userspec=nobody:nogroup "$root" env -i HOME=/nonexistent "${environment[@]}" \
    sh -c 'cd "$1" && shift && exec "$@"' sh "$place" "$@"
}

copy() {  # FILE...: to the same place in the root, those that are there
  local file
  for file in "$@"; do
    [[ ! -f $file ]] || install -D -m 644 "$file" "$root$file"
  done
}

make_root() {
  local keep=$packages/archives name
  mkdir -p "$keep/partial" "$packages/debootstrap" "$root"
  debootstrap --variant=minbase --include=make,git,ca-certificates --cache-dir="$packages/debootstrap" \
    bookworm "$root" "$mirror" >"$work/debootstrap.log" 2>&1 || { tail -n 20 "$work/debootstrap.log" && return 1; }
  mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && mount --rbind /dev "$root/dev" &&
    mount --bind "$keep" "$root/var/cache/apt/archives" || return
  if [[ -n ${CCACHE_NAMESPACE:-} ]]; then
    mkdir -p "$root/var/cache/ccache" &&
      mount --bind "$(ccache --get-config cache_dir)" "$root/var/cache/ccache" || return
  fi

  apt-config dump | grep -E "$apt_settings" >"$root/etc/apt/apt.conf.d/90outside"
  cp -a /etc/apt/auth.conf /etc/apt/auth.conf.d "$root/etc/apt/" 2>/dev/null
  copy /etc/resolv.conf /etc/hosts /etc/pip.conf /root/.config/pip/pip.conf /etc/npmrc /root/.npmrc /root/.cargo/config.toml
  for name in "${certificates[@]}"; do copy "${!name:-}"; done
  cp -a /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null
  echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/90outside"  # faster, and this root is not to survive a crash
  chroot "$root" update-ca-certificates >/dev/null 2>&1
}

clone() {
  git clone --quiet "file://$PWD" "$root$place" && chmod a+rx "$root/root"
}

# ---- the checks ----

check() {  # NAME COMMAND...
  local name=$1 start=$SECONDS
  shift
  if "$@"; then
    passed=$((passed + 1))
    echo "== bare: $name: passed, $((SECONDS - start)) s"
  else
    failed=$((failed + 1))
    echo "== bare: $name: FAILED, $((SECONDS - start)) s"
    return 1
  fi
}

finish() {
  echo "$passed passed, $failed failed"
  exit $((failed > 0 || passed == 0))
}

readonly announcement='setup:   apt-get update && apt-get install --no-install-recommends '

# The user nobody is told what root has to run, and nothing is changed.
told_what_to_run() {
  local status
  as_nobody make run >"$work/nobody.log" 2>&1
  status=$?
  ((status != 0)) && grep -qF "As root, run:" "$work/nobody.log" && grep -qF "$announcement" "$work/nobody.log" && return
  cat "$work/nobody.log"
  return 1
}

# What was told is what `make run` then installed.
told_the_same() {
  diff <(sed -n "s/^$announcement//p" "$work/nobody.log") <(sed -n 's/^setup: installing //p' "$work/run.log")
}

nothing_is_missing() {
  local told
  told=$(as_nobody scripts/setup.sh run 2>&1) && [[ -z $told ]] || { echo "$told" && return 1; }
}

server=  # process id of make

until_ready() {
  local deadline=$((SECONDS + patience))
  until grep -q 'Chorale is ready' "$work/run.log"; do
    if ! kill -0 "$server" 2>/dev/null || ((SECONDS > deadline)); then
      tail -n 40 "$work/run.log"
      return 1
    fi
    sleep 0.5
  done
}

start() {  # COMMAND...: the server of `make run`, until it is ready
  "$@" >"$work/run.log" 2>&1 &
  server=$!
  until_ready
}

stop() {
  local folder
  for folder in /proc/[0-9]*; do  # of this namespace: none that is not ours
    if [[ $(cat "$folder/comm" 2>/dev/null) == chorale ]]; then kill -TERM "${folder##*/}"; fi
  done
  wait "$server" && return
  tail -n 20 "$work/run.log"
  return 1
}

ask() {  # README's question, from the root
  chroot "$root" python3 - <<'PYTHON'
import json, urllib.request

body = {"model": "tales-moe", "max_tokens": 200, "chat_template_kwargs": {"enable_thinking": False},
        "messages": [{"role": "user", "content": "Tell me a story about a dragon."}]}
request = urllib.request.Request("http://127.0.0.1:30000/v1/chat/completions", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
choice = json.load(direct.open(request, timeout=300))["choices"][0]
print(choice["message"]["content"])
assert len(choice["message"]["content"]) > 40 and choice["finish_reason"] in ("stop", "length"), choice
PYTHON
}

# All of it in one namespace without a network: the server, which is asked, and a model at a path with spaces.
again_without_network() {
  ln -s tales-moe "$root$place/models/tales of experts"
  export -f in_root start until_ready ask stop
  export root place work patience
  unshare --net bash -c "environment=(${environment[*]@Q}); "'
    ip link set lo up && start in_root make run "MODEL=models/tales of experts" ARGS="--served-model-name tales-moe" &&
      ask && stop'
}

unit_tests() {
  in_root scripts/test.sh unit base io text server >"$work/unit.log" 2>&1 || tail -n 200 "$work/unit.log"
  [[ $(tail -n 1 "$work/unit.log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]] && ((BASH_REMATCH[1] > 0)) || return
  passed=$((passed + BASH_REMATCH[1]))
  failed=$((failed + BASH_REMATCH[2]))
  ((BASH_REMATCH[2] == 0))
}

check "debootstrap" make_root && check "clone" clone || finish
check "without root and sudo" told_what_to_run
check "make run: builds and starts" start in_root make run || finish
in_root sh -c 'cargo --version && du -sh /usr build-release crates/target' | sed 's/^/== bare: /'
check "make run: answers" ask
check "make run: stops" stop
check "without root and sudo: told what was installed" told_the_same
check "without root and sudo: nothing is missing" nothing_is_missing
check "make run again, without a network" again_without_network
check "unit tests" unit_tests
finish
