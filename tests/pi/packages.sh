# shellcheck shell=bash disable=SC2154
# What the virtual machines are made of: QEMU, and Debian's arm64 kernel and busybox, unpacked in the cache.
#
# Sourced by tests/run; uses $cache.

. tests/rig/foreign.sh

# The BCM2835's I2C controller came with QEMU 9.
readonly qemu_major_min=9

needs_qemu() {
  qemu_is_new_enough && return
  local package=qemu-system-arm version suite
  if [ "$(id -u)" != 0 ] || ! present apt-get; then skip "needs QEMU $qemu_major_min or later ($package)"; fi
  debian_update
  foreign_view
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
  version=$(foreign_candidate "$package")
  # 1:10.0.2+ds: an epoch before the colon
  if dpkg --compare-versions "${version#*:}" lt "$qemu_major_min"; then suite=$suite-backports; fi
  foreign_install "$suite" "$package" || skip "could not install $package from $suite"
  qemu_is_new_enough || skip "needs QEMU $qemu_major_min or later; $suite has $(foreign_candidate "$package" "$suite")"
}

qemu_is_new_enough() {
  local major
  major=$(qemu-system-aarch64 --version 2> /dev/null | sed -n 's/.* version \([0-9]*\)\..*/\1/p')
  [ "${major:-0}" -ge $qemu_major_min ]
}

# $guest_files holds the kernel package's files, and busybox.
needs_guest_files() {
  guest_files=$cache/pi/files
  [ -e "$guest_files/.unpacked" ] && return
  needs dpkg-deb:dpkg
  foreign_view
  local kernel
  kernel=$(foreign_dependencies linux-image-arm64:arm64 | grep '^linux-image-') \
    || skip "needs Debian's arm64 kernel, which apt does not know of here"
  foreign_unpack "$guest_files" "$kernel" busybox-static:arm64 || skip "could not download $kernel"
}
