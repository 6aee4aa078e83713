"""fieldgate as a service of a real systemd: installed by the README's own commands, started, reloaded, watched, stopped.
What it says comes over MQTT, through the network namespace that this program shares with the machine."""

import argparse
import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
import signal
import struct
import sys
import time

import installation
from client import Client
from machine import Machine

PORT = 1883
UNIT = "fieldgate.service"
STOP_SECONDS_MAX = 5
# asm-generic/ioctls.h: unlocks a pseudo terminal, and tells its number.
TIOCSPTLCK = 0x4004_5431
TIOCGPTN = 0x8004_5430
CONFIGURATION_WRONG = 78
FILE = "/etc/fieldgate/fieldgate.toml"

# What the README has one write; the device nodes are made below.
CONFIGURATION = """
[gateway]
name = "service"
[gateway.defaults]
every = "200ms"
payload = "json"
[device.machine]
driver = "system"
[serial.scale]
path = "{scale}"
[device.scale]
driver = "lines"
bus = "serial.scale"
pattern = '(?<weight>[0-9.]+) kg'
"""
# Nodes of no hardware: whoever may open their class is told so, and whoever may not is told that.
MORE = """
[serial.allowed]
path = "/dev/ttyS77"
[device.allowed]
driver = "lines"
bus = "serial.allowed"
pattern = '(?<value>.)'
[serial.forbidden]
path = "/dev/forbidden"
[device.forbidden]
driver = "lines"
bus = "serial.forbidden"
pattern = '(?<value>.)'
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="fieldgate for this machine")
    parser.add_argument("--packages", type=pathlib.Path, required=True, help="the unpacked root")
    given = parser.parse_args()
    # Being asked to end takes the machine down in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with Machine(given.packages) as machine:
        shown(machine.run("systemctl --version").splitlines()[0])
        site = Site(machine, given.binary, Scale(machine))
        for check in CHECKS:
            check(site)


@dataclasses.dataclass
class Site:
    """What the checks are about: the machine, the program, and what is connected."""

    machine: Machine
    binary: pathlib.Path
    scale: "Scale"


def shown(what):
    print(f"shown: {what}", flush=True)


def it_is_installed_as_the_readme_says(site):
    clone = site.machine.path("/root/clone")
    shutil.copytree(installation.PROJECT / "systemd", clone / "systemd")
    (clone / "target/release").mkdir(parents=True)
    shutil.copy(site.binary, clone / "target/release/fieldgate")
    (clone / "fieldgate.toml").write_text(CONFIGURATION.format(scale=site.scale.name))
    (clone / "install").write_text(installation.script(with_udev=False))
    print(site.machine.run("cd /root/clone && bash install"))
    shown("the README's commands install and start it")


def it_is_ready(site):
    said = properties(site.machine, "ActiveState", "SubState", "Type", "StatusText", "NRestarts", "User", "UnitFileState")
    expected = {
        "ActiveState": "active", "SubState": "running", "Type": "notify", "StatusText": "running",
        "NRestarts": "0", "User": "fieldgate", "UnitFileState": "enabled",
    }  # fmt: skip
    assert said == expected, said
    shown("READY=1 has been said")


def it_speaks_mqtt(site):
    with Client(PORT) as client:
        client.subscribe("service/#")
        reading = client.wait_for_value("service/machine/uptime", lambda value: value > 0)
        assert reading["quality"] == "good", reading
        client.wait_for_text("service/machine/availability", "online")
    shown("readings of the machine arrive over MQTT")


def a_serial_port_is_read(site):
    with Client(PORT) as client:
        client.subscribe("service/#")
        # What comes at the very moment of opening may be the rest of a line. Silence is told later than that.
        client.wait_for_value("service/scale/weight", lambda value: value is None)
        for weight in (12.5, 13.75):
            site.scale.say(f"{weight} kg\r\n")
            client.wait_for_value("service/scale/weight", weight)
    shown("a terminal is read as a serial port")


def its_folders_are_its_own(site):
    listed = site.machine.run("stat -c '%n %U:%G %a' /var/lib/fieldgate /run/fieldgate /run/fieldgate/control.sock")
    assert listed.splitlines() == [
        "/var/lib/fieldgate fieldgate:fieldgate 750",
        "/run/fieldgate fieldgate:fieldgate 750",
        "/run/fieldgate/control.sock fieldgate:fieldgate 660",
    ], listed
    shown("StateDirectory, RuntimeDirectory and the control socket are there")


def the_group_may_use_the_control_socket(site):
    said = site.machine.run("fieldgate read machine/uptime", user="nobody:fieldgate")
    assert "machine/uptime" in said, said
    refused = site.machine.run("fieldgate read machine/uptime; echo status $?", user="nobody:nogroup")
    assert "status 0" not in refused, refused
    shown("a member of the group may use the control socket, somebody else may not")


def credentials_are_handed_over(site):
    secret = "of no use elsewhere"
    site.machine.run(f"umask 077; echo '{secret}' > /etc/fieldgate/credentials/cloud; systemctl restart fieldgate")
    environment = site.machine.run(f"tr '\\0' '\\n' < /proc/{main_pid(site.machine)}/environ")
    folder = re.search("^CREDENTIALS_DIRECTORY=(.*)$", environment, re.MULTILINE)[1]
    # As the service sees it: its own user, in its own mounts.
    see = f"nsenter --target={main_pid(site.machine)} --mount setpriv --reuid=fieldgate --regid=fieldgate --clear-groups"
    assert site.machine.run(f"{see} cat {folder}/fieldgate_cloud").strip() == secret
    shown("a file in the folder of credentials is fieldgate_NAME for the service")


def it_starts_without_credentials(site):
    site.machine.run("rm -r /etc/fieldgate/credentials; systemctl restart fieldgate")
    assert properties(site.machine, "ActiveState") == {"ActiveState": "active"}
    site.machine.run("systemd-tmpfiles --create fieldgate.conf; systemctl restart fieldgate")
    assert properties(site.machine, "ActiveState") == {"ActiveState": "active"}
    shown("it starts without the folder of credentials, and with an empty one")


def a_changed_configuration_is_taken_over(site):
    before = main_pid(site.machine)
    site.machine.run("mknod -m 666 /dev/ttyS77 c 4 141; mknod -m 666 /dev/forbidden c 10 183")
    with Client(PORT) as client:
        client.subscribe("service/#")
        append(site.machine, MORE)
        site.machine.run("systemctl reload fieldgate")
        # The device classes of the unit are allowed, and no others.
        allowed = client.wait_for("service/allowed/value/reason").payload.decode()
        forbidden = client.wait_for("service/forbidden/value/reason").payload.decode()
    assert "not permitted" not in allowed, allowed
    assert "not permitted" in forbidden, forbidden
    a_serial_port_is_read(site)
    assert main_pid(site.machine) == before
    shown("systemctl reload takes a changed configuration over")
    shown(f"the sandbox lets it open serial ports ({allowed}) and nothing else ({forbidden})")


def a_wrong_configuration_leaves_the_running_one(site):
    before, good = main_pid(site.machine), configuration(site.machine)
    append(site.machine, '[device.wrong]\ndriver = "sytem"\n')
    said = site.machine.run("systemctl reload fieldgate || echo refused")
    assert "refused" in said, f"systemctl reload says nothing of a wrong configuration: {said!r}"
    # Also when nobody has looked at it first.
    site.machine.run("systemctl kill --signal=HUP --kill-whom=main fieldgate")
    site.machine.wait_for("the journal to name the mistake", lambda: journal(site.machine).count("sytem") >= 2)
    it_speaks_mqtt(site)
    assert main_pid(site.machine) == before
    site.machine.path(FILE).write_text(good)
    site.machine.run("systemctl reload fieldgate")
    shown("a wrong configuration leaves the running one, and systemctl reload says so")


def a_process_that_hangs_is_restarted(site):
    site.machine.run("mkdir -p /run/systemd/system/fieldgate.service.d")
    drop_in = site.machine.path("/run/systemd/system/fieldgate.service.d/watchdog.conf")
    drop_in.write_text("[Service]\nWatchdogSec=1s\nTimeoutAbortSec=2s\nRestartSec=100ms\n")
    site.machine.run("systemctl daemon-reload; systemctl restart fieldgate")
    before = main_pid(site.machine)
    # Longer than the limit, and it is alive.
    with Client(PORT) as client:
        client.subscribe("service/machine/uptime")
        uptime = client.wait_for_value("service/machine/uptime", lambda value: value > 0)["value"]
        client.wait_for_value("service/machine/uptime", lambda value: value > uptime + 3)
    assert main_pid(site.machine) == before, "it was restarted though it was alive"
    site.machine.run(f"kill -STOP {before}")
    site.machine.wait_for("the watchdog to restart it", lambda: properties(site.machine, "NRestarts")["NRestarts"] == "1")
    site.machine.wait_for("it to run again", lambda: properties(site.machine, "SubState")["SubState"] == "running")
    assert main_pid(site.machine) != before
    it_speaks_mqtt(site)
    drop_in.unlink()
    site.machine.run("systemctl daemon-reload; systemctl restart fieldgate")
    shown("the watchdog restarts a process that hangs, and leaves one alone that is idle")


def it_stops_in_time(site):
    with Client(PORT) as client:
        client.subscribe("service/gateway/state")
        client.wait_for_text("service/gateway/state", "online")
        started = time.monotonic()
        site.machine.run("systemctl stop fieldgate")
        seconds = time.monotonic() - started
        client.wait_for_text("service/gateway/state", "offline")
    said = properties(site.machine, "ActiveState", "Result", "ExecMainStatus")
    assert said == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}, said
    assert seconds < STOP_SECONDS_MAX, seconds
    shown(f"systemctl stop ends it cleanly in {seconds:.1f} s")


def a_wrong_configuration_is_not_tried_again(site):
    good = configuration(site.machine)
    append(site.machine, "surprise = 1\n")
    site.machine.run("systemctl start fieldgate", check=False)
    said = properties(site.machine, "ActiveState", "ExecMainStatus", "NRestarts")
    expected = {"ActiveState": "failed", "ExecMainStatus": str(CONFIGURATION_WRONG), "NRestarts": "0"}
    assert said == expected, said
    assert "surprise" in journal(site.machine)
    site.machine.path(FILE).write_text(good)
    site.machine.run("systemctl start fieldgate")
    it_is_ready(site)
    shown("with a wrong configuration it fails with 78 and is not restarted; with a right one it starts")


def a_crash_is_restarted(site):
    before = main_pid(site.machine)
    site.machine.run(f"kill -KILL {before}")
    site.machine.wait_for("it to be restarted", lambda: main_pid(site.machine) not in (before, "0"))
    site.machine.wait_for("it to run again", lambda: properties(site.machine, "SubState")["SubState"] == "running")
    it_speaks_mqtt(site)
    shown("a crash is restarted")


CHECKS = (
    it_is_installed_as_the_readme_says,
    it_is_ready,
    it_speaks_mqtt,
    a_serial_port_is_read,
    its_folders_are_its_own,
    the_group_may_use_the_control_socket,
    credentials_are_handed_over,
    it_starts_without_credentials,
    a_changed_configuration_is_taken_over,
    a_wrong_configuration_leaves_the_running_one,
    a_process_that_hangs_is_restarted,
    it_stops_in_time,
    a_wrong_configuration_is_not_tried_again,
    a_crash_is_restarted,
)


class Scale:
    """A pseudo terminal in the machine, with us at its far end."""

    def __init__(self, machine):
        self.end = os.open(machine.path("/dev/pts/ptmx"), os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(self.end, TIOCSPTLCK, struct.pack("i", 0))
        (number,) = struct.unpack("i", fcntl.ioctl(self.end, TIOCGPTN, bytes(4)))
        self.name = f"/dev/pts/{number}"
        # As udev would for a serial port.
        machine.run(f"chgrp dialout {self.name}; chmod 660 {self.name}")

    def say(self, text):
        os.write(self.end, text.encode())


def properties(machine, *names):
    """What systemd says of the unit."""
    lines = machine.run(f"systemctl show {UNIT} --property={','.join(names)}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def main_pid(machine):
    return properties(machine, "MainPID")["MainPID"]


def journal(machine):
    return machine.run(f"journalctl --no-pager --unit={UNIT}")


def configuration(machine):
    return machine.path(FILE).read_text()


def append(machine, text):
    machine.path(FILE).write_text(configuration(machine) + text)


if __name__ == "__main__":
    main()
