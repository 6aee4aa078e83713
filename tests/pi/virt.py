"""The gateway on kernel devices that change from outside: edges on GPIO lines, an output, a serial adapter that is
pulled and comes back. All seen over MQTT from this side of the guest's network."""

import datetime
import json
import time

from scenario import arguments, booted, gateway, shown

# Registers of the PL061 of QEMU's `virt`: its data (the address's bits 9 to 2 select the lines) and directions.
PL061 = 0x0903_0000
DATA = PL061 + (0xFF << 2)
DIRECTION = PL061 + 0x400
# The panel's lines, as in virt.toml.
BUTTON, DOOR, FLOW, LAMP = 0, 1, 2, 5

# How far apart the edges are whose kernel timestamps are compared, and what the emulator may add or take away.
EDGE_SPACING = 0.4
EDGE_TOLERANCE = 0.2
# The guest's clock is set to whole seconds.
CLOCK_TOLERANCE = 5

MACHINE = (
    "-M", "virt", "-cpu", "cortex-a53", "-m", "256", "-nodefaults",
    "-serial", "chardev:console", "-serial", "chardev:onboard",
    "-device", "virtio-net-pci,netdev=net,romfile=",
    "-device", "qemu-xhci,id=usb", "-device", "usb-serial,bus=usb.0,chardev=adapter,id=adapter",
)  # fmt: skip


def main():
    with booted(
        "virt",
        MACHINE,
        given=arguments(),
        modules=("virtio_pci", "virtio_net", "xhci_pci", "ftdi_sio"),
        console="ttyAMA0",
        command_line="console=ttyAMA0",
        channels=("onboard", "adapter"),
    ) as guest:
        guest.channels["adapter"].answer = lambda _: "ST,GS,  12.5 kg\r\n"
        guest.channels["onboard"].answer = lambda _: "level=3.25\r\n"
        with gateway(guest) as watcher:
            edges_are_messages(guest, watcher)
            edges_carry_the_kernels_timestamps(guest, watcher)
            edges_are_counted(guest, watcher)
            a_command_drives_a_line(guest, watcher)
            an_unplugged_adapter_is_a_fault_until_it_is_back(guest, watcher)
        assert not lamp_is_lit(guest), "the lamp is still lit after a clean stop, its safe state is false"
        shown("the lamp is in its safe state after a clean stop")


def edges_are_messages(guest, watcher):
    chip = guest.qmp.path_of("pl061")
    watcher.wait_for_value("virt/panel/door", False)
    for level in (1, 0, 1):
        mark, before = watcher.mark(), time.time()
        guest.qtest.set_pin(chip, DOOR, level)
        reading = watcher.wait_for_value("virt/panel/door", bool(level), since=mark)
        assert reading["quality"] == "good", reading
        off_by = seconds(reading["time"]) - before
        assert abs(off_by) < CLOCK_TOLERANCE, f"the edge's time is off by {off_by} s: {reading}"
    shown("edges made from outside are messages")


def edges_carry_the_kernels_timestamps(guest, watcher):
    """While the gateway is stopped, the kernel collects edges. Read all at once afterwards, they still carry the times at
    which they happened, which only the kernel knows."""
    chip = guest.qmp.path_of("pl061")
    mark = watcher.mark()
    guest.run("kill -STOP $gateway")
    for level in (1, 0, 1, 0):
        guest.qtest.set_pin(chip, BUTTON, level)
        time.sleep(EDGE_SPACING)
    guest.run("kill -CONT $gateway")

    def heard():
        return [json.loads(m.payload) for m in watcher.messages[mark:] if m.topic == "virt/panel/button"]

    watcher.wait_for("virt/panel/button", lambda _: len(heard()) >= 4, since=mark, what="the fourth edge")
    times = [seconds(reading["time"]) for reading in heard()]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert len(gaps) == 3, heard()
    assert all(abs(gap - EDGE_SPACING) < EDGE_TOLERANCE for gap in gaps), f"edges {EDGE_SPACING} s apart: {gaps}"
    shown("each edge carries the kernel's timestamp")


def edges_are_counted(guest, watcher):
    chip = guest.qmp.path_of("pl061")
    watcher.wait_for_value("virt/panel/flow", 0)
    for count in (1, 2, 3):
        guest.qtest.set_pin(chip, FLOW, 1)
        guest.qtest.set_pin(chip, FLOW, 0)
        watcher.wait_for_value("virt/panel/flow", count)
    shown("edges are counted")


def a_command_drives_a_line(guest, watcher):
    assert guest.qtest.read_register(DIRECTION) & 1 << LAMP, "the lamp's line is not an output"
    for command, lit in (("on", True), ("off", False), ("true", True)):
        mark = watcher.mark()
        watcher.publish("virt/panel/lamp/set", command)
        result = json.loads(watcher.wait_for("virt/panel/lamp/result", since=mark).payload)
        assert result["status"] == "ok", result
        assert lamp_is_lit(guest) == lit, f"after {command!r} the line is {'high' if not lit else 'low'}"
        watcher.wait_for_value("virt/panel/lamp", lit)
    mark = watcher.mark()
    watcher.publish("virt/panel/lamp/set", "perhaps")
    result = json.loads(watcher.wait_for("virt/panel/lamp/result", since=mark).payload)
    assert result["status"] == "error", result
    assert lamp_is_lit(guest), "a command that was refused has changed the line"
    shown("a command drives a line, and a bad one does not")


def lamp_is_lit(guest):
    return bool(guest.qtest.read_register(DATA) & 1 << LAMP)


def an_unplugged_adapter_is_a_fault_until_it_is_back(guest, watcher):
    watcher.wait_for_value("virt/scale/weight", 12.5)
    watcher.wait_for_value("virt/meter/level", 3.25)
    shown("both serial ports' lines are messages")

    mark = watcher.mark()
    guest.qmp.execute("device_del", id="adapter")
    guest.qmp.wait_for_event("DEVICE_DELETED", device="adapter")
    watcher.wait_for_text("virt/scale/weight/quality", "fault", since=mark)
    reason = watcher.wait_for("virt/scale/weight/reason", since=mark).payload
    shown(f"an adapter that is pulled is a fault: {reason.decode()}")

    mark = watcher.mark()
    guest.channels["onboard"].answer = lambda _: "level=4.5\r\n"
    watcher.wait_for_value("virt/meter/level", 4.5, since=mark)
    shown("the other port goes on")

    mark = watcher.mark()
    guest.channels["adapter"].answer = lambda _: "ST,GS,  13.75 kg\r\n"
    guest.qmp.execute("device_add", driver="usb-serial", bus="usb.0", chardev="adapter", id="adapter")
    watcher.wait_for_text("virt/scale/weight/quality", "good", since=mark)
    watcher.wait_for_value("virt/scale/weight", 13.75, since=mark)
    shown("an adapter that is back is read again")


def seconds(time_text):
    return datetime.datetime.fromisoformat(time_text).timestamp()


if __name__ == "__main__":
    main()
