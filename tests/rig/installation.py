"""The README's own commands for installing the service, as a script for a machine that has no need of some of them."""

import pathlib

PROJECT = pathlib.Path(__file__).parents[2]
HEADING = "\n## Install it as a service\n"

# It runs as root in a folder with `systemd/`, the program where cargo would leave it, and the configuration that an
# administrator would write.
BEFORE = """\
#!/bin/bash
set -eux
cargo() { echo "it is built already"; }
sudo() { "$@"; }
sudoedit() { install -m 644 fieldgate.toml "$1"; }
"""
WITHOUT_UDEV = """\
udevadm() { echo "no udev in here"; }
"""


def script(*, with_udev):
    section = (PROJECT / "README.md").read_text().split(HEADING)[1].split("\n## ")[0]
    commands = section.split("```sh\n")[1].split("```")[0]
    return BEFORE + ("" if with_udev else WITHOUT_UDEV) + commands
