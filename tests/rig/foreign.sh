# shellcheck shell=bash disable=SC2154
# Debian packages that this machine would not install by itself: another architecture's kernel, a compiler
# that would replace its own, a newer QEMU from backports. A private view of the mirrors that apt already uses
# here, with lists and state of its own, leaves the machine's apt as it was.
#
# Uses $cache.

# Reads the package lists of the view, once for the life of the cache. A mirror can be stale for a while: what
# could be read is used after some tries, and whoever misses a package says so.
foreign_view() {
  local view=$cache/foreign try
  [ -e "$view/ready" ] && return
  mkdir -p "$view"/{lists/partial,archives/partial,parts,preferences}
  : > "$view/status"
  foreign_sources > "$view/sources.list"
  foreign_configuration "$view" > "$view/apt.conf"
  for try in 1 2 3; do
    foreign apt-get update && break
    sleep "$try"
  done
  touch "$view/ready"
}

# foreign COMMAND… : an apt command on the view.
foreign() { APT_CONFIG=$cache/foreign/apt.conf "$@"; }

# A line for each Debian suite that this machine's apt reads, and for the backports of each release.
foreign_sources() {
  local origin uri suite component
  local options='[arch=amd64,arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
    | sort -u \
    | while read -r origin uri suite component; do
        [ "$origin" = Debian ] || continue
        echo "deb $options ${uri%/} $suite $component"
        case $suite in *-*) ;; *) echo "deb $options ${uri%/} $suite-backports $component" ;; esac
      done
}

# Only the architectures that are used: one stale index fails a whole update.
foreign_configuration() {
  cat <<END
Dir::Etc::SourceList "$1/sources.list";
Dir::Etc::SourceParts "$1/parts";
Dir::Etc::PreferencesParts "$1/preferences";
Dir::State "$1";
Dir::State::Lists "$1/lists";
Dir::State::Status "$1/status";
Dir::Cache "$1";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
#clear APT::Architectures;
APT::Architectures { "amd64"; "arm64"; };
END
}

# foreign_candidate PACKAGE [SUITE] : the version that would be downloaded, or nothing.
foreign_candidate() {
  foreign apt-cache ${2:+-t "$2"} policy "$1" | sed -n 's/^ *Candidate: //p' | grep -v '(none)' || true
}

# foreign_dependencies PACKAGE : the packages that PACKAGE depends on, those of another architecture as NAME:ARCH.
foreign_dependencies() {
  foreign apt-cache depends "$1" | sed -n 's/^ *Depends: \([^ <]*\).*/\1/p'
}

# foreign_unpack FOLDER PACKAGE… : downloads and unpacks into FOLDER, once.
foreign_unpack() {
  local folder=$1 downloads=$cache/foreign/downloads package try; shift
  [ -e "$folder/.unpacked" ] && return
  rm -rf "$folder" "$downloads"; mkdir -p "$folder" "$downloads"
  for try in 1 2 3; do
    (cd "$downloads" && foreign apt-get download "$@") && break
    [ "$try" = 3 ] && return 1
    sleep "$try"
  done
  for package in "$downloads"/*.deb; do dpkg-deb -x "$package" "$folder" || return 1; done
  rm -rf "$downloads"
  touch "$folder/.unpacked"
}

# foreign_install SUITE PACKAGE… : installs on this machine, as root, from a suite that its own apt does not read.
foreign_install() {
  DEBIAN_FRONTEND=noninteractive foreign apt-get -o Dir::State::Status=/var/lib/dpkg/status \
    -o DPkg::Lock::Timeout=300 -o APT::Keep-Downloaded-Packages=false \
    -t "$1" install -y --no-install-recommends "${@:2}"
}

# foreign_root FOLDER ARCHITECTURE PACKAGE… : unpacks into FOLDER, once, what a machine with nothing but these packages
# has, with all that they depend on. No package's own script runs, so that it may be another architecture's: FOLDER is
# what they ship, with usr/{bin,sbin,lib} in their places and no users.
foreign_root() {
  local folder=$1 architecture=$2 downloads=$cache/foreign/downloads package try; shift 2
  [ -e "$folder/.unpacked" ] && return
  rm -rf "$folder" "$downloads"; mkdir -p "$folder"/usr/{bin,sbin,lib,lib64} "$downloads/partial"
  for try in 1 2 3; do
    foreign apt-get -o "APT::Architecture=$architecture" -o "Dir::Cache::Archives=$downloads" \
      install -y --download-only --no-install-recommends "$@" && break
    [ "$try" = 3 ] && return 1
    sleep "$try"
  done
  for package in bin sbin lib lib64; do ln -s "usr/$package" "$folder/$package"; done
  for package in "$downloads"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$folder" || return 1
  done
  rm -rf "$downloads"
  touch "$folder/.unpacked"
}
