# shellcheck shell=bash disable=SC2154
# The ARM builds, with Debian's own compiler unpacked beside the machine's toolchain and the standard library
# built from Debian's source for each target. So no target's prebuilt library is needed, and the three are
# built alike.
#
#   aarch64  Pi 3 and later, 64 bit    linked by Debian's gcc against glibc
#   armv7    Pi 2 and later, 32 bit    likewise
#   armv6    Pi Zero and Pi 1          linked by zig with musl: Debian's armhf libc is ARMv7 code
#
# Sourced by tests/run; uses $cache and $python (which has ziglang).

. tests/rig/foreign.sh

# The oldest compiler that Cargo.toml allows.
arm_rust_version_min() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

# $ARM_RUST holds the compiler, its libraries and the source of its standard library.
needs_arm_compiler() {
  export ARM_RUST=$cache/arm/rust ARM_PYTHON=$python
  [ -e "$ARM_RUST/.unpacked" ] && return
  needs dpkg-deb:dpkg
  foreign_view
  local version library
  version=$(foreign_candidate rustc-web)
  if [ -z "$version" ] || dpkg --compare-versions "$version" lt "$(arm_rust_version_min)"; then
    skip "needs Debian's rustc-web, $(arm_rust_version_min) or later; apt knows of '$version'"
  fi
  # libstd-rust-web-1.96, and the libllvm that it was linked with, as the packages themselves say.
  library=$(foreign_dependencies libstd-rust-web-dev | grep '^libstd-rust-web-')
  foreign_unpack "$ARM_RUST" rustc-web libstd-rust-web-dev rust-web-src "$library" \
    "$(foreign_dependencies "$library" | grep '^libllvm')" || skip "could not download Debian's rustc-web"
  # cargo remembers what a compiler said of itself by the date of our wrapper, which is not the compiler's.
  rm -f "$cache/arm/target/.rustc_info.json"
}

# What rustc calls the target $1.
arm_triple() {
  case $1 in
    aarch64) echo aarch64-unknown-linux-gnu ;;
    armv7) echo armv7-unknown-linux-gnueabihf ;;
    armv6) echo arm-unknown-linux-musleabihf ;;
  esac
}

# Where arm_build leaves the program for the target $1.
arm_binary() { echo "$cache/arm/target/$(arm_triple "$1")/release/fieldgate"; }

# arm_build TARGET… : the release binary for each, as a user would build it: more than half of the time goes into the
# standard library and the dependencies, so that another profile would save little. At once, because the end of each
# build, where the whole program is optimised, keeps one processor busy. RUSTC_BOOTSTRAP is what lets a stable cargo
# build a standard library.
arm_build() {
  local target triples=()
  for target in "$@"; do triples+=(--target "$(arm_triple "$target")"); done
  env \
    RUSTC="$PWD/tests/arm/rustc" \
    RUSTC_BOOTSTRAP=1 \
    CARGO_TARGET_DIR="$cache/arm/target" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CARGO_TARGET_ARMV7_UNKNOWN_LINUX_GNUEABIHF_LINKER=arm-linux-gnueabihf-gcc \
    CARGO_TARGET_ARM_UNKNOWN_LINUX_MUSLEABIHF_LINKER="$PWD/tests/arm/zig-linker" \
    CC_arm_unknown_linux_musleabihf="$PWD/tests/arm/zig-cc" \
    AR_arm_unknown_linux_musleabihf="$PWD/tests/arm/zig-ar" \
    ZIG_GLOBAL_CACHE_DIR="$cache/arm/zig" \
    cargo build --locked --release -Z build-std=std,panic_unwind "${triples[@]}"
}
