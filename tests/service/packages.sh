# shellcheck shell=bash disable=SC2154
# What the service's machines are made of: systemd and the tools that an installation by hand takes, unpacked in the cache.
#
# Sourced by tests/run; uses $cache.

. tests/rig/foreign.sh

# needs_service_packages ARCHITECTURE : $service_packages holds the file system of a fresh machine.
needs_service_packages() {
  service_packages=$cache/service/$1
  [ -e "$service_packages/.ready" ] && return
  needs dpkg-deb:dpkg tar:tar
  present apt-get || skip "needs Debian's packages of systemd, and there is no apt-get here"
  foreign_view
  foreign_root "$service_packages" "$1" systemd-sysv udev kmod base-passwd base-files bash coreutils grep sed \
    procps util-linux \
    || skip "could not download Debian's packages of systemd"
  service_machine_is_fresh "$service_packages"
  touch "$service_packages/.ready"
}

# What the packages' own scripts, and an installer, would have done.
service_machine_is_fresh() {
  local unit
  cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"
  cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"
  mkdir -p "$1/usr/local/bin"
  ln -sfn /run "$1/var/run"
  echo service > "$1/etc/hostname"
  tr -d - < /proc/sys/kernel/random/uuid > "$1/etc/machine-id"
  # What would reach beyond the machine: the kernel's own file systems, its audit, and a login on the console.
  for unit in sys-kernel-{debug,tracing,config}.mount sys-fs-fuse-connections.mount dev-hugepages.mount \
    systemd-journald-audit.socket console-getty.service; do
    ln -sf /dev/null "$1/etc/systemd/system/$unit"
  done
}

# Namespaces and control groups of our own take root, and a kernel that lets this root have them.
needs_namespaces() {
  [ "$(id -u)" = 0 ] || skip "needs root, to start a systemd in namespaces of its own"
  needs unshare:util-linux setpriv:util-linux nsenter:util-linux
  unshare --pid --fork --mount --uts --ipc --net --cgroup true \
    || skip "needs namespaces, which this machine does not give to its root"
  local groups
  groups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
  [ -n "$groups" ] && [ -w "$groups" ] || skip "needs the unified hierarchy of control groups, writable"
}
