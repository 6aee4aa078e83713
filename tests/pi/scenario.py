"""What both guests' scenarios share: arguments, the steps they print, and the gateway in the guest."""

import argparse
import contextlib
import pathlib
import time

import guest
import initramfs
from client import Client

HERE = pathlib.Path(__file__).parent

# Of one guest, booting included.
SECONDS_MAX = 900


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="fieldgate for aarch64")
    parser.add_argument("--guest-files", type=pathlib.Path, required=True, help="where kernel and busybox were unpacked")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="an empty folder")
    return parser.parse_args()


def shown(what):
    print(f"shown: {what}", flush=True)


@contextlib.contextmanager
def booted(name, machine, *, given, modules, console, command_line="", channels=()):
    """A guest that is ready for commands, with the gateway's configuration of tests/pi/NAME.toml in it."""
    (kernel,) = given.guest_files.glob("boot/vmlinuz-*")
    archive = given.work / "initramfs.cpio"
    initramfs.build(
        archive,
        guest_files=given.guest_files,
        modules=modules,
        init=HERE / "init",
        program=given.binary,
        files={"etc/fieldgate.toml": (HERE / f"{name}.toml").read_bytes()},
    )
    command_line = f"quiet panic=-1 console_tty={console} {command_line}"
    with guest.Guest(
        *machine, "-kernel", kernel, "-initrd", archive, "-append", command_line,
        "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:1883",
        channels=channels, seconds=SECONDS_MAX,
    ) as machine:  # fmt: skip
        machine.wait_until_ready()
        # A Pi 3 has no clock of its own, and an emulated one need not be right.
        machine.run(f"date -s @{int(time.time())}")
        shown(f"{name} has booted")
        yield machine


@contextlib.contextmanager
def gateway(machine):
    """The gateway running in the guest, and a client on this side that hears all it says. It is asked to stop in the
    end, and has to do so by itself, with exit status 0."""
    status, output = machine.run("fieldgate check --config /etc/fieldgate.toml")
    assert status == 0, f"fieldgate check: exit status {status}: {output}"
    machine.run("fieldgate run --config /etc/fieldgate.toml & gateway=$!")
    with Client(machine.forwarded_port(), retry=True) as watcher:
        watcher.subscribe("#", 1)
        shown("a client outside is connected to the gateway in the guest")
        yield watcher
    status, output = machine.run("kill -TERM $gateway; wait $gateway")
    assert status == 0, f"the gateway's exit status on SIGTERM is {status}: {output}"
    shown("the gateway stops cleanly on SIGTERM")
