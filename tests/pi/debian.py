"""An initial RAM file system that is a small Debian: unpacked packages with systemd as the first program, the kernel
modules that udev and modprobe shall find, and a shell on the console that a guest.Guest speaks to."""

import os
import pathlib
import stat
import subprocess
import tempfile

import initramfs

# Of the packages, what no program here reads. The emulated CPU unpacks every byte.
LEFT_OUT = (
    "usr/share/bash-completion", "usr/share/doc", "usr/share/i18n", "usr/share/locale", "usr/share/man", "usr/share/perl",
    "usr/share/perl5", "usr/share/zoneinfo", "usr/lib/aarch64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/perl",
    "usr/lib/aarch64-linux-gnu/perl-base", "usr/lib/udev/hwdb.d",
)  # fmt: skip

# Whoever logs in or asks for a password on the console would read what is meant for the shell.
MASKED = ("getty.target", "getty-static.service", "systemd-ask-password-console.path", "systemd-ask-password-wall.path")

# QEMU's network for its guest, whatever the card is called.
NETWORK = """\
[Match]
Name=e*
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
IPv6AcceptRA=no
"""

# The protocol of guest.Guest.run. Behind udev, so that the devices are there, and not as a part of the boot.
SHELL = """\
#!/bin/bash
stty -echo -icrnl -onlcr
number=0
echo "guest is ready"
while read -r command; do
  number=$((number + 1))
  echo "[begin $number]"
  eval "$command"
  echo "[end $number $?]"
done
"""
SHELL_UNIT = """\
[Unit]
After=basic.target systemd-udev-settle.service systemd-networkd.service
Wants=systemd-udev-settle.service
[Service]
ExecStart=/root/shell
WorkingDirectory=/root
StandardInput=tty
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyAMA0
"""

UNITS = "etc/systemd/system"
WANTED = f"{UNITS}/multi-user.target.wants"


def build(path, *, packages, guest_files, modules, files):
    """Writes the archive to `path`. `files` maps names to their content and mode."""
    archive = initramfs.Archive()
    archive.device("dev/console", 5, 1)
    add_tree(archive, packages, "")
    link(archive, "init", "/lib/systemd/systemd")
    for unit in MASKED:
        link(archive, f"{UNITS}/{unit}", "/dev/null")
    archive.file("etc/systemd/network/guest.network", NETWORK.encode())
    archive.file("root/shell", SHELL.encode(), 0o755)
    archive.file(f"{UNITS}/shell.service", SHELL_UNIT.encode())
    archive.folder(WANTED)
    link(archive, f"{WANTED}/shell.service", f"/{UNITS}/shell.service")
    link(archive, f"{WANTED}/systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service")
    add_modules(archive, guest_files, modules)
    for name, (content, mode) in files.items():
        archive.file(name, content, mode)
    archive.write(path)


def add_modules(archive, guest_files, modules):
    """Those and what they need, with an index of their own, so that asking for another one fails as it would for a
    module that a kernel has not."""
    folder = initramfs.module_folder(guest_files)
    with tempfile.TemporaryDirectory() as work:
        chosen = pathlib.Path(work) / "lib/modules" / folder.name
        for module in initramfs.in_loading_order(folder, modules):
            here = chosen / module.relative_to(folder).with_name(initramfs.plain_name(module))
            here.parent.mkdir(parents=True, exist_ok=True)
            here.write_bytes(initramfs.uncompressed(module))
        for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            (chosen / name).write_bytes((folder / name).read_bytes())
        subprocess.run(["depmod", "--basedir", work, folder.name], check=True)
        add_tree(archive, chosen, f"usr/lib/modules/{folder.name}")


def add_tree(archive, folder, below):
    """Everything in a folder of this machine, but what is left out."""
    for place, folders, files in os.walk(folder):
        here = os.path.normpath(os.path.join(below, os.path.relpath(place, folder)))
        if here != ".":
            archive.folder(here)
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders[:] = sorted(
            name for name in folders if name not in links and os.path.normpath(f"{here}/{name}") not in LEFT_OUT
        )
        for name in sorted([*files, *links]):
            source, inside = os.path.join(place, name), os.path.normpath(f"{here}/{name}")
            mode = os.lstat(source).st_mode
            if stat.S_ISLNK(mode):
                link(archive, inside, os.readlink(source))
            elif stat.S_ISREG(mode):
                archive.file(inside, pathlib.Path(source).read_bytes(), stat.S_IMODE(mode))


def link(archive, name, target):
    archive.folder(os.path.dirname(name))
    archive.entry(name, stat.S_IFLNK | 0o777, target.encode())
