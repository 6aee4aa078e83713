# shellcheck shell=bash disable=SC2154
# What a step of tests/run needs from elsewhere: named, installed where that is possible, and if it cannot be
# had, the step is skipped with the names of what is missing.
#
# Uses $cache, $scratch and $exit_skipped.

skip() {
  echo "$*"
  exit "$exit_skipped"
}

# needs_cargo [COMPONENT] : a Rust toolchain, with a linker for its own machine.
needs_cargo() {
  command -v cargo > /dev/null || skip "needs a Rust toolchain (cargo)"
  if [ $# = 1 ]; then
    cargo "$1" --version > /dev/null 2>&1 || skip "needs cargo $1, a component of the Rust toolchain"
  fi
  needs cc:gcc /usr/include/stdlib.h:libc6-dev
}

# needs COMMAND:PACKAGE… : each command (or, with a slash, file) is there, or its Debian package is installed.
needs() {
  local pair missing=()
  for pair in "$@"; do present "${pair%%:*}" || missing+=("${pair#*:}"); done
  [ ${#missing[@]} = 0 ] && return
  debian_install "${missing[@]}"
  for pair in "$@"; do
    present "${pair%%:*}" || skip "the Debian package ${pair#*:} brought no ${pair%%:*}"
  done
}

# needs_unstarted COMMAND:PACKAGE… : as needs, of packages that bring services: those that were not there before are
# neither started nor enabled.
needs_unstarted() {
  local pair unit policy=/usr/sbin/policy-rc.d ours=()
  for pair in "$@"; do present "${pair%%:*}" || ours+=("${pair#*:}"); done
  [ ${#ours[@]} -gt 0 ] || return 0
  # What the scripts of packages ask before they start anything; a policy that is there stays in force.
  if [ "$(id -u)" = 0 ] && [ ! -e "$policy" ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
  fi
  needs "$@"
  [ -d /run/systemd/system ] || return 0
  dpkg -L "${ours[@]}" | sed -n 's|^.*/systemd/system/\([^/@]*\)$|\1|p' | while read -r unit; do
    systemctl disable --now "$unit" || skip "could not stop $unit"
  done
}

present() {
  case $1 in
    */*) [ -e "$1" ] ;;
    *) command -v "$1" > /dev/null ;;
  esac
}

# debian_install PACKAGE… [-- OPTION…]: through apt, without recommends, or skips.
debian_install() {
  local packages=() options=() try
  while [ $# -gt 0 ] && [ "$1" != -- ]; do packages+=("$1"); shift; done
  [ $# = 0 ] || { shift; options=("$@"); }
  if [ "$(id -u)" != 0 ] || ! present apt-get; then skip "needs the Debian packages ${packages[*]}"; fi
  debian_update
  export DEBIAN_FRONTEND=noninteractive
  for try in 1 2 3; do
    apt-get "${options[@]}" -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${packages[@]}" && return
    sleep "$try"
  done
  skip "could not install the Debian packages ${packages[*]}"
}

# At most once in a run of tests/run.
debian_update() {
  [ -e "$scratch/apt-updated" ] && return
  local try
  for try in 1 2 3; do
    apt-get -o DPkg::Lock::Timeout=300 update && break
    sleep "$try"
  done
  touch "$scratch/apt-updated"
}

# needs_python REQUIREMENT… : $python is a python3 of our own in the cache that has these from PyPI.
needs_python() {
  needs python3:python3
  python3 -c 'import ensurepip, venv' 2> /dev/null || debian_install python3-venv
  python=$cache/venv/bin/python
  "$python" -c '' 2> /dev/null || { rm -rf "$cache/venv"; python3 -m venv "$cache/venv"; }
  local requirement missing=()
  for requirement in "$@"; do
    [ -e "$cache/venv/$requirement" ] || missing+=("$requirement")
  done
  [ ${#missing[@]} = 0 ] && return
  "$python" -m pip install --disable-pip-version-check --retries 5 "${missing[@]}" \
    || skip "needs from PyPI: ${missing[*]}"
  for requirement in "${missing[@]}"; do touch "$cache/venv/$requirement"; done
}

# needs_node PACKAGE@VERSION… : node finds these from npm, which are in the cache.
needs_node() {
  needs node:nodejs
  export NODE_PATH=$cache/npm/node_modules
  local package missing=()
  for package in "$@"; do
    [ -e "$cache/npm/.has-${package//\//+}" ] || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  needs npm:npm
  npm install --prefix "$cache/npm" --save-exact --ignore-scripts --no-audit --no-fund --fetch-retries 5 "${missing[@]}" \
    || skip "needs from npm: ${missing[*]}"
  for package in "${missing[@]}"; do touch "$cache/npm/.has-${package//\//+}"; done
}
