"""Real power cuts: the gateway keeps what it is told on ext4 on a disk that loses what was not flushed, and its machine ends
at random moments. Nothing that was acknowledged is missing afterwards, and nothing of QoS 2 comes twice.

    tests/pi/power.py --binary B --guest-files F --work W [--cuts 20] [--seed N]

So that it is known to see: a gateway whose fdatasync does nothing has to lose something, and so has one whose fdatasync
writes to the disk and does not flush it."""

import pathlib
import random
import subprocess
import time

import guest
import initramfs
import scenario
from disk import Disk
from judge import Load
from sender import PATIENCE, Lost
from victim import Victim

HERE = pathlib.Path(__file__).parent
SHIM = HERE.parent / "rig/shim.c"

DISK_BYTES = 64 << 20
MACHINE = (
    "-M", "virt", "-cpu", "cortex-a53", "-m", "256", "-nodefaults", "-serial", "chardev:console",
    "-device", "virtio-net-pci,netdev=net,romfile=", "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:1883",
    "-device", "virtio-blk-pci,drive=disk",
)  # fmt: skip
MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "crc32c_generic", "ext4")

# What a flush takes at most: an SD card is not faster, and meanwhile there is something to lose.
FLUSH_SECONDS_MAX = 0.04
# Between listening and the cut, in seconds.
LIVES = (0.3, 4.0)
# One that is not waited for is cut within so many seconds from the mount: while ext4 replays its journal, and the
# gateway its own.
BEGINNING = 1.0
# The controls are cut so often at most.
CONTROL_CUTS_MAX = 12
# And nobody waits long, in seconds, for what will not come.
CONTROL_PATIENCE = 15


class Board(Victim):
    """A machine with a disk. `syncs` is what becomes of them in the guest: see tests/rig/shim.c."""

    def __init__(self, given, archive, disk, chance, syncs=""):
        super().__init__(chance, LIVES)
        (self.kernel,) = given.guest_files.glob("boot/vmlinuz-*")
        self.archive, self.disk, self.syncs = archive, disk, syncs
        self.guest = None
        self.booted = 0.0

    def begin(self):
        self.boot()
        time.sleep(self.chance.uniform(0.0, BEGINNING))

    def boot(self):
        started = time.monotonic()
        self.guest = guest.Guest(
            *MACHINE, "-drive", f"file={self.disk.url},format=raw,if=none,id=disk,cache=none",
            "-kernel", self.kernel, "-initrd", self.archive,
            "-append", "console=ttyAMA0 quiet panic=-1 console_tty=ttyAMA0",
        )  # fmt: skip
        self.guest.wait_until_ready()
        self.guest.run("mkdir -p /mnt")
        shim = f"echo {self.syncs} > /tmp/syncs; export DISK_SHIM=/tmp/syncs LD_PRELOAD=/lib/shim.so; " if self.syncs else ""
        # In the background, so that the power can fail while the mount is at it.
        self.guest.run(f"(mount -t ext4 /dev/vda /mnt && {shim}exec fieldgate run) &")
        self.booted = time.monotonic() - started

    def start(self):
        self.boot()
        self.guest.console.wait_for("listening name=outside")
        return self.guest.forwarded_port()

    def strike(self):
        if not self.guest:
            return None
        self.disk.cut_power()
        self.guest.close()
        loss = self.disk.restore_power(self.chance)
        return f"{loss}; it had taken {self.booted:.1f} s to boot"


def main():
    parser = scenario.parser()
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    archive = given.work / "initramfs.cpio"
    build(archive, given)
    image = filesystem(given.work / "disk.img")

    cuts, verdict = run(given, archive, image, "", given.cuts)
    scenario.shown(f"{cuts} power cuts, {verdict}")
    for syncs, what in (("nothing", "does nothing"), ("write", "writes and does not flush")):
        try:
            cuts, verdict = run(given, archive, image, syncs, CONTROL_CUTS_MAX)
        except Lost as lost:
            scenario.shown(f"a sync that {what} is noticed: {lost}")
        else:
            raise AssertionError(f"nobody notices a sync that {what}: {cuts} power cuts, {verdict}")


def run(given, archive, image, syncs, cuts):
    """So many cuts, or a few more: their number, and the verdict."""
    disk = Disk(image, given.work / f"disk-{syncs}.sock", flush_seconds_max=FLUSH_SECONDS_MAX)
    board = Board(given, archive, disk, random.Random(f"{given.seed} {syncs}"), syncs)
    try:
        board.live()
        load = Load(board.port, random.Random(given.seed), there=(0.5, 6.0), away=(0.0, 10.0))
        load.subscribe()
        board.look = load.check_retained
        board.torment()
        load.run(lambda: board.strikes >= cuts)
        board.spare()
        return board.strikes, load.judge(CONTROL_PATIENCE if syncs else PATIENCE)
    except BaseException as failure:
        if not syncs or not isinstance(failure, Lost):
            board.guest.show_console()
        raise
    finally:
        board.end()
        disk.close()


def build(archive, given):
    shim = given.work / "shim.so"
    subprocess.run(["aarch64-linux-gnu-gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", shim, SHIM], check=True)
    initramfs.build(
        archive,
        guest_files=given.guest_files,
        modules=MODULES,
        init=HERE / "init",
        program=given.binary,
        files={
            "etc/fieldgate/fieldgate.toml": (HERE / "power.toml").read_bytes(),
            "lib/shim.so": shim.read_bytes(),
        },
    )


def filesystem(path):
    """A fresh one, as Debian would make it."""
    path.write_bytes(b"")
    subprocess.run(["truncate", "-s", str(DISK_BYTES), path], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path.read_bytes()


if __name__ == "__main__":
    scenario.run(main)
