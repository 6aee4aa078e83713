"""What both guests' scenarios share: arguments, the steps they print, and the gateway in the guest."""

import argparse
import contextlib
import datetime
import json
import pathlib
import signal
import sys

import guest
import initramfs
from client import Client

HERE = pathlib.Path(__file__).parent

# Of one guest, booting included.
SECONDS_MAX = 900


def arguments():
    return parser().parse_args()


def parser():
    """Of what every scenario is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="fieldgate for aarch64")
    parser.add_argument("--guest-files", type=pathlib.Path, required=True, help="where kernel and busybox were unpacked")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="an empty folder")
    return parser


def milliseconds(time_text):
    """A time as the gateway writes it, since the epoch."""
    return round(datetime.datetime.fromisoformat(time_text).timestamp() * 1000)


def command(watcher, topic, payload):
    """Sends a command to a point and returns its result."""
    mark = watcher.mark()
    watcher.publish(f"{topic}/set", payload)
    return json.loads(watcher.wait_for(f"{topic}/result", since=mark).payload)


def shown(what):
    print(f"shown: {what}", flush=True)


@contextlib.contextmanager
def booted(name, machine, *, given, modules, console, command_line="", channels=(), files=None):
    """A guest that is ready for commands, with the gateway's configuration of tests/pi/NAME.toml in it, and with `files`:
    further names and their contents."""
    (kernel,) = given.guest_files.glob("boot/vmlinuz-*")
    archive = given.work / "initramfs.cpio"
    initramfs.build(
        archive,
        guest_files=given.guest_files,
        modules=modules,
        init=HERE / "init",
        program=given.binary,
        files={"etc/fieldgate/fieldgate.toml": (HERE / f"{name}.toml").read_bytes(), **(files or {})},
    )
    command_line = f"quiet panic=-1 console_tty={console} {command_line}"
    with guest.Guest(
        *machine, "-kernel", kernel, "-initrd", archive, "-append", command_line,
        "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:1883",
        channels=channels, seconds=SECONDS_MAX,
    ) as machine:  # fmt: skip
        machine.wait_until_ready()
        shown(f"{name} has booted")
        yield machine


class Gateway:
    """The gateway in the guest: started, asked and ended through the guest's shell."""

    def __init__(self, guest):
        self.guest = guest

    def check(self):
        """What `check --hardware` prints, and its exit status."""
        return self.guest.run("fieldgate check --hardware")

    @contextlib.contextmanager
    def running(self, *topics):
        """From its start on, with a client on this side that hears all it says, or just these topics. Whoever uses this
        also ends it."""
        self.guest.run("fieldgate run & gateway=$!")
        with Client(self.guest.forwarded_port(), retry=True) as watcher:
            for topic in topics or ("#",):
                watcher.subscribe(topic, 1)
            yield watcher

    def stop(self):
        """As a service manager does. It has to end by itself, and well."""
        status, output = self.guest.run("kill -TERM $gateway; wait $gateway")
        assert status == 0, f"the gateway's exit status on SIGTERM is {status}: {output}"
        shown("the gateway stops cleanly on SIGTERM")

    def kill(self):
        """As a crash does."""
        status, _ = self.guest.run("kill -KILL $gateway; wait $gateway")
        assert status == 128 + signal.SIGKILL, f"a gateway that was killed has exit status {status}"

    def freeze(self):
        """It hears nothing until thaw()."""
        self.guest.run("kill -STOP $gateway")

    def thaw(self):
        self.guest.run("kill -CONT $gateway")

    def says(self, verb, *arguments, status=0):
        """What a command that speaks to the running gateway prints."""
        ended, output = self.guest.run(f"fieldgate {verb} {' '.join(arguments)}")
        assert ended == status, f"fieldgate {verb} {arguments}: exit status {ended}, not {status}: {output}"
        return output


def counted(watcher, base_topic):
    """What the gateway has counted so far, by its own account: of `buses`, `ports` and `devices`."""
    mark = watcher.mark()
    watcher.publish(f"{base_topic}/gateway/request/status", "")
    response = watcher.wait_for(f"{base_topic}/gateway/response/status", since=mark)
    return json.loads(response.payload)["data"]["field"]


def run(main):
    """Runs a scenario so that SIGTERM also takes down what it has built up. If the emulator hangs, which has been seen
    once in many runs and says nothing of the gateway, it is told, and the scenario runs a second time."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except guest.EmulatorHangs as hang:
        print(f"QEMU hangs, and the scenario begins anew: {hang}", flush=True)
        main()
