# shellcheck shell=bash disable=SC2154
# Debian packages of other architectures and suites, downloaded and unpacked into the cache, never
# installed: the ARM compilers' libraries, the guests' kernel. A private view of the mirrors that this
# machine already uses (lists and state of its own) keeps the machine's own apt as it was.
#
# Uses $cache.

# foreign_view NAME ARCHITECTURE… : makes the view and reads its package lists, unless that was done.
# Only the architectures that are needed: one stale index among several fails the whole update.
foreign_view() {
  local view=$cache/apt/$1 architectures=${*:2} try
  [ -e "$view/ready" ] && return
  mkdir -p "$view"/{lists/partial,archives/partial,parts,preferences.d}
  : > "$view/status"
  debian_sources "$architectures" > "$view/sources.list"
  [ -s "$view/sources.list" ] || { echo "apt knows no Debian mirror here"; return 1; }
  foreign_configuration "$view" "$architectures" > "$view/apt.conf"
  for try in 1 2 3; do
    APT_CONFIG=$view/apt.conf apt-get update && touch "$view/ready" && return
    sleep 5
  done
  return 1
}

# One line for each Debian suite that this machine's apt reads.
debian_sources() {
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
    | sort -u \
    | while read -r origin uri suite component; do
        [ "$origin" = Debian ] || continue
        echo "deb [arch=${1// /,} signed-by=$keyring] ${uri%/} $suite $component"
      done
}

# The view's own apt.conf. The machine's architecture stays the native one, so that apt's resolver is
# at home; Architectures replaces the list that apt would ask dpkg for.
foreign_configuration() {
  local view=$1 architecture
  cat <<CONF
Dir::Etc::SourceList "$view/sources.list";
Dir::Etc::SourceParts "$view/parts";
Dir::Etc::PreferencesParts "$view/preferences.d";
Dir::State "$view";
Dir::State::Lists "$view/lists";
Dir::State::Status "$view/status";
Dir::Cache "$view";
Acquire::Retries "3";
#clear APT::Architectures;
CONF
  for architecture in $2; do echo "APT::Architectures:: \"$architecture\";"; done
}

# foreign_candidate VIEW PACKAGE : the version that would be downloaded, or nothing.
foreign_candidate() {
  APT_CONFIG=$cache/apt/$1/apt.conf apt-cache policy "$2" \
    | sed -n 's/^ *Candidate: //p' | grep -v '(none)'
}

# foreign_dependencies VIEW PACKAGE : the names of the packages that PACKAGE depends on.
foreign_dependencies() {
  APT_CONFIG=$cache/apt/$1/apt.conf apt-cache depends "$2" | sed -n 's/^ *Depends: \([^ :<]*\).*/\1/p'
}

# foreign_unpack VIEW FOLDER PACKAGE[=VERSION]… : downloads and unpacks into FOLDER, once.
foreign_unpack() {
  local view=$1 folder=$2 downloads try; shift 2
  [ -e "$folder/.unpacked" ] && return
  rm -rf "$folder"; mkdir -p "$folder"
  downloads=$(mktemp -d "$cache/apt/download.XXXXXX")
  for try in 1 2 3; do
    (cd "$downloads" && APT_CONFIG=$cache/apt/$view/apt.conf apt-get download "$@") && break
    [ "$try" = 3 ] && { rm -rf "$downloads"; return 1; }
    sleep 5
  done
  local package
  for package in "$downloads"/*.deb; do dpkg-deb -x "$package" "$folder" || return 1; done
  rm -rf "$downloads"
  touch "$folder/.unpacked"
}
