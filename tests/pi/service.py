"""The service of a real systemd on kernel devices: its sandbox lets it drive a GPIO line, read a serial port, and read a USB
adapter that is plugged in when it has long been running; when it is stopped, the line is in its safe state."""

import argparse
import json
import pathlib

import debian
import guest
import installation
from client import Client

SECONDS_MAX = 900
# Emulated processors take their time with a whole Debian.
BOOT_SECONDS_MAX = 400
STOP_SECONDS_MAX = 5

# Registers of the PL061 of QEMU's `virt`: its data (the address's bits 9 to 2 select the lines) and directions.
PL061 = 0x0903_0000
DATA = PL061 + (0xFF << 2)
DIRECTION = PL061 + 0x400
LAMP = 5

MACHINE = (
    "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "1024", "-nodefaults",
    "-serial", "chardev:console", "-serial", "chardev:onboard",
    "-device", "virtio-net-pci,netdev=net,romfile=", "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:1883",
    "-device", "qemu-xhci,id=usb",
)  # fmt: skip
# The last four are for the unit to load by itself.
MODULES = ("virtio_pci", "virtio_net", "xhci_pci", "ftdi_sio", "i2c_dev", "spidev", "usbserial", "cdc_acm")

CONFIGURATION = """
[gateway]
name = "pi"
[gateway.defaults]
every = "500ms"
payload = "json"
[listener.outside]
bind = "*:1883"
allow_anonymous = true
[gpio.board]
chip = "9030000.pl061"
[device.panel]
driver = "gpio"
bus = "gpio.board"
point.lamp = { kind = "output", line = 5, safe_state = false }
[serial.onboard]
path = "/dev/ttyAMA1"
[device.meter]
driver = "lines"
bus = "serial.onboard"
poll = "level?\\n"
pattern = 'level=(?<level>[0-9.]+)'
[serial.adapter]
path = "/dev/ttyUSB0"
[device.scale]
driver = "lines"
bus = "serial.adapter"
poll = "weight?\\n"
pattern = '(?<weight>[0-9.]+) kg'
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="fieldgate for aarch64")
    parser.add_argument("--guest-files", type=pathlib.Path, required=True, help="where the kernel was unpacked")
    parser.add_argument("--packages", type=pathlib.Path, required=True, help="where systemd was unpacked")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="an empty folder")
    given = parser.parse_args()

    archive = given.work / "debian.cpio"
    debian.build(
        archive, packages=given.packages, guest_files=given.guest_files, modules=MODULES, files=files(given.binary)
    )
    (kernel,) = given.guest_files.glob("boot/vmlinuz-*")
    with guest.Guest(
        *MACHINE, "-kernel", kernel, "-initrd", archive,
        "-append", "console=ttyAMA0 quiet panic=-1 systemd.show_status=0 systemd.getty_auto=0",
        channels=("onboard", "adapter"), seconds=SECONDS_MAX,
    ) as machine:  # fmt: skip
        machine.console.wait_for("guest is ready", BOOT_SECONDS_MAX)
        print("shown: a Debian with systemd has booted", flush=True)
        machine.channels["onboard"].answer = lambda _: "level=3.25\r\n"
        machine.channels["adapter"].answer = lambda _: "12.5 kg\r\n"
        it_is_installed(machine)
        with Client(machine.forwarded_port(), retry=True) as watcher:
            watcher.subscribe("#", 1)
            it_drives_a_line(machine, watcher)
            it_reads_a_serial_port(watcher)
            it_reads_an_adapter_that_comes_later(machine, watcher)
            it_leaves_the_line_safe(machine)


def files(binary):
    """A clone of the project, as far as the installation needs it, and the configuration that is to be written."""
    clone = "root/clone"
    in_place = {f"{clone}/systemd/{file.name}": (file.read_bytes(), 0o644) for file in (installation.PROJECT / "systemd").iterdir()}
    return in_place | {
        f"{clone}/target/release/fieldgate": (binary.read_bytes(), 0o755),
        f"{clone}/fieldgate.toml": (CONFIGURATION.encode(), 0o644),
        f"{clone}/install": (installation.script(with_udev=True).encode(), 0o755),
    }


def it_is_installed(machine):
    run(machine, "cd /root/clone && ./install && udevadm settle")
    said = run(machine, "systemctl show fieldgate --property=ActiveState,SubState,DeviceAllow")
    assert "ActiveState=active" in said and "SubState=running" in said, said
    for name in ("gpiochip", "i2c", "spi", "ttyAMA", "ttyUSB", "ttyACM"):
        assert f"char-{name} rw" in said, f"{name} was dropped: {said}"
    owner = run(machine, "stat -c '%U:%G %a' /dev/gpiochip0")
    assert owner.strip() == "root:gpio 660", owner
    # What is loaded already when the unit starts is not dropped from its list.
    classes = run(machine, "cat /proc/devices")
    for name in ("i2c", "spi", "gpiochip", "ttyUSB", "ttyACM", "ttyAMA"):
        assert f" {name}\n" in classes, f"no class {name} in the kernel: the unit has not loaded its module: {classes}"
    print("shown: installed as the README says, and its modules are loaded before it starts", flush=True)


def it_drives_a_line(machine, watcher):
    assert machine.qtest.read_register(DIRECTION) & 1 << LAMP, "the lamp's line is not an output"
    for command, lit in (("on", True), ("off", False), ("on", True)):
        mark = watcher.mark()
        watcher.publish("pi/panel/lamp/set", command)
        result = json.loads(watcher.wait_for("pi/panel/lamp/result", since=mark).payload)
        assert result["status"] == "ok", result
        assert lamp_is_lit(machine) == lit, f"after {command!r} the line is {'low' if lit else 'high'}"
    print("shown: a GPIO line is driven from within the sandbox", flush=True)


def it_reads_a_serial_port(watcher):
    watcher.wait_for_value("pi/meter/level", 3.25)
    print("shown: a serial port of the board is read from within the sandbox", flush=True)


def it_reads_an_adapter_that_comes_later(machine, watcher):
    watcher.wait_for_text("pi/scale/weight/quality", "fault")
    before = run(machine, "systemctl show fieldgate --property=MainPID")
    machine.qmp.execute("device_add", driver="usb-serial", bus="usb.0", chardev="adapter", id="adapter")
    watcher.wait_for_value("pi/scale/weight", 12.5)
    assert run(machine, "systemctl show fieldgate --property=MainPID") == before
    print("shown: a USB adapter that is plugged in later is read from within the sandbox", flush=True)


def it_leaves_the_line_safe(machine):
    assert lamp_is_lit(machine)
    took = run(machine, "TIMEFORMAT=%R; time systemctl stop fieldgate").strip()
    assert not lamp_is_lit(machine), "the lamp is still lit after a stop, its safe state is false"
    said = run(machine, "systemctl show fieldgate --property=ActiveState,Result,ExecMainStatus")
    assert "ActiveState=inactive" in said and "Result=success" in said and "ExecMainStatus=0" in said, said
    assert float(took) < STOP_SECONDS_MAX, took
    print(f"shown: systemctl stop leaves the line in its safe state, in {took} s", flush=True)


def lamp_is_lit(machine):
    return bool(machine.qtest.read_register(DATA) & 1 << LAMP)


def run(machine, command):
    """What a command shows that has to succeed."""
    status, shown = machine.run(command)
    if status != 0:
        _, journal = machine.run("journalctl --no-pager --lines=60")
        raise guest.GuestFailure(f"{command}: exit status {status}: {shown}\n{journal}")
    return shown


if __name__ == "__main__":
    main()
