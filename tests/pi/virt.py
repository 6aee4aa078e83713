"""The gateway on kernel devices that change from outside: edges on GPIO lines, outputs, a serial adapter that is pulled
and comes back. All seen over MQTT from this side of the guest's network."""

import json

import scenario
from scenario import Gateway, arguments, booted, command, counted, milliseconds, shown

# Registers of the PL061 of QEMU's `virt`: its data (the address's bits 9 to 2 select the lines) and directions.
PL061 = 0x0903_0000
DATA = PL061 + (0xFF << 2)
DIRECTION = PL061 + 0x400
# What the kernel calls it, and the panel's lines, as in virt.toml.
CHIP = "9030000.pl061"
BUTTON, DOOR, FLOW, LOCK, GATE, LAMP, HEATER, RELAY = range(8)

# What the kernel keeps for a line of ours (EVENT_BUFFER in src/field/gpio), and a burst that is more than that.
EVENTS_KEPT = 256
BURST = 300

# What one connection is read in a turn of the loop (READ_PER_TURN in src/host/net).
READ_PER_TURN = 64 * 1024
# How often one looks whether enough waits to be read.
LOOKS = 100

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
        files=Flood.FILES,
    ) as guest:
        guest.channels["adapter"].answer = lambda _: "ST,GS,  12.5 kg\r\n"
        guest.channels["onboard"].answer = lambda _: "level=3.25\r\n"
        panel, gateway = Panel(guest), Gateway(guest)
        guest.set_clock()
        guest.wait_for_device("/dev/ttyUSB0")
        the_hardware_is_checked(gateway)
        commands_need_no_gateway(panel, gateway)
        with gateway.running() as watcher:
            a_line_that_another_program_holds_is_a_fault_until_it_is_free(panel, watcher)
            outputs_start_safe(panel)
            edges_are_messages(panel, watcher)
            a_bouncing_contact_is_one_message(panel, watcher)
            edges_carry_the_kernels_timestamps(panel, gateway, watcher)
            edges_are_counted(panel, gateway, watcher)
            commands_drive_lines(panel, watcher)
            a_chip_that_is_not_there_is_a_fault(gateway, watcher)
            an_unplugged_adapter_is_a_fault_until_it_is_back(panel, watcher)
            commands_inside_see_what_outside_sees(panel, gateway)
            an_unplugged_chip_is_a_fault_until_it_is_back(panel, watcher)
            for point, line in (("lamp", LAMP), ("heater", HEATER), ("relay", RELAY)):
                assert command(watcher, f"virt/panel/{point}", "on")["status"] == "ok"
                assert panel.is_active(line), f"{point} is not on"
            gateway.kill()
        for line in (LAMP, HEATER, RELAY):
            assert panel.is_active(line), "a gateway that was killed has let go of its outputs all the same"
        with gateway.running() as watcher:
            watcher.wait_for_value("virt/panel/lamp", False)
            watcher.wait_for_value("virt/panel/heater", False)
            watcher.wait_for_value("virt/panel/relay", True)
            outputs_are("after a crash", panel, lamp=False, heater=False, relay=True)
            gateway.says("set", "panel/lamp", "on")
            gateway.says("set", "panel/heater", "on")
            outputs_are("as told", panel, lamp=True, heater=True, relay=True)
            gateway.stop()
        flood = Flood(guest)
        flood.make_room()
        with gateway.running(Flood.MARK, "virt/panel/button") as watcher:
            a_flood_does_not_delay_an_edge(panel, gateway, watcher, flood)
            gateway.stop()
        outputs_are("after a clean stop", panel, lamp=False, heater=False, relay=True)


class Panel:
    """The lines of the GPIO chip as the world outside the board has them: a level is high (1) or low (0)."""

    def __init__(self, guest):
        self.guest = guest
        self.chip = guest.qmp.path_of("pl061")

    def set(self, line, level):
        self.guest.qtest.set_pin(self.chip, line, level)

    def pulse(self, line):
        self.set(line, 1)
        self.set(line, 0)

    def is_output(self, line):
        return bool(self.guest.qtest.read_register(DIRECTION) & 1 << line)

    def is_high(self, line):
        return bool(self.guest.qtest.read_register(DATA) & 1 << line)

    def is_active(self, line):
        """The heater is wired to be on while its line is low."""
        return self.is_high(line) != (line == HEATER)


class Flood:
    """A publisher in the guest that never stops: messages that nobody wants, and every so often one on MARK."""

    MARK = "flood/mark"
    CONNECT = bytes((0x10, 17)) + b"\0\4MQTT\4\2\0\0" + b"\0\5flood"
    MESSAGE = bytes((0x30, 116)) + b"\0\6nobody" + b"x" * 108
    UNIT = MESSAGE * 34 + bytes((0x30, 12)) + b"\0\12" + MARK.encode()
    FILES = {"tmp/connect": CONNECT, "tmp/torrent": UNIT * 64}

    def __init__(self, guest):
        self.guest = guest

    def make_room(self):
        """For a listener that is opened from now on, the kernel keeps more of it than the loop may take in the turns in
        question."""
        self.guest.run("echo 4096 1048576 4194304 > /proc/sys/net/ipv4/tcp_rmem")

    def start(self):
        self.guest.run("(cat /tmp/connect; while cat /tmp/torrent; do :; done) | nc 127.0.0.1 1883 > /dev/null & flood=$!")

    def wait_for_backlog(self, count):
        """Returns when more than `count` bytes of it wait for the gateway, which reads none."""
        for _ in range(LOOKS):
            _, table = self.guest.run("cat /proc/net/tcp /proc/net/tcp6")
            # Of each connection: number, own address and port, the peer's, state, bytes to be sent : to be read.
            rows = [row.split() for row in table.splitlines()]
            kept = [int(row[4].split(":")[1], 16) for row in rows if row[1:] and row[1].endswith(":075B") and row[3] == "01"]
            if max(kept, default=0) > count:
                return
        raise AssertionError(f"of the flood {kept} bytes wait, not {count}")

    def end(self):
        self.guest.run("kill $flood; wait $flood")


def the_hardware_is_checked(gateway):
    status, output = gateway.check()
    assert status == 1, f"a chip is missing, and the exit status of check --hardware is {status}: {output}"
    failed = [line for line in output.splitlines() if "FAILED" in line]
    assert len(failed) == 1, output
    assert failed[0].startswith("absent"), output
    shown(f"check finds all the hardware but the chip that is not there: {failed[0]}")


def commands_need_no_gateway(panel, gateway):
    """The lamp is left lit by a program that goes on."""
    panel.set(DOOR, 1)
    output = gateway.says("read", "panel/door")
    assert "true" in output, f"the door is active: {output}"
    panel.set(DOOR, 0)
    output = gateway.says("read", "panel/door")
    assert "false" in output, f"the door is inactive: {output}"
    mark = panel.guest.console.mark()
    panel.guest.run("fieldgate set panel/lamp on --direct & direct=$!")
    panel.guest.console.wait_for("held until Ctrl-C", since=mark)
    assert panel.is_active(LAMP), "`fieldgate set --direct` has not lit the lamp"
    shown("read, and set --direct, need no gateway")


def a_line_that_another_program_holds_is_a_fault_until_it_is_free(panel, watcher):
    reason = watcher.wait_for("virt/panel/lamp/reason", lambda message: b"in use by" in message.payload).payload.decode()
    assert reason.endswith("is in use by 'fieldgate'"), reason
    watcher.wait_for_value("virt/panel/door", False)
    assert panel.is_active(LAMP), "a line that another program holds has been driven"
    status, output = panel.guest.run("kill -INT $direct; wait $direct")
    assert status == 0, f"set --direct ends with {status}: {output}"
    watcher.wait_for_value("virt/panel/lamp", False)
    watcher.wait_for_text("virt/panel/lamp/quality", "good")
    shown(f"a line that another program holds is a fault until it is free: {reason}")


def outputs_start_safe(panel):
    for line in (LAMP, HEATER, RELAY):
        assert panel.is_output(line), f"line {line} is not an output"
    outputs_are("from the start", panel, lamp=False, heater=False, relay=False)


def outputs_are(when, panel, **expected):
    levels = {"lamp": LAMP, "heater": HEATER, "relay": RELAY}
    found = {name: panel.is_active(line) for name, line in levels.items()}
    assert found == expected, f"{when} outputs are {found}, not {expected}"
    words = ", ".join(f"{name} {'on' if active else 'off'}" for name, active in found.items())
    shown(f"outputs {when}: {words}")


def edges_are_messages(panel, watcher):
    watcher.wait_for_value("virt/panel/door", False)
    watcher.wait_for_value("virt/panel/gate", True)
    for name, line, active_low in (("door", DOOR, False), ("gate", GATE, True)):
        begin = watcher.mark()
        for level in (1, 0, 1):
            mark, before = watcher.mark(), panel.guest.clock()
            panel.set(line, level)
            reading = watcher.wait_for_value(f"virt/panel/{name}", bool(level) != active_low, since=mark)
            assert reading["quality"] == "good", reading
            at, after = milliseconds(reading["time"]), panel.guest.clock()
            assert before <= at <= after, f"an edge between {before} and {after} has the time {at}"
        readings = values(watcher, f"virt/panel/{name}", begin)
        assert len(readings) == 3, f"3 edges are {readings}"
    shown("edges made from outside are messages, active-low ones the other way round")


def a_bouncing_contact_is_one_message(panel, watcher):
    """The kernel debounces: of a contact that bounces for less than the period only what it comes to rest at counts."""
    watcher.wait_for_value("virt/panel/lock", False)
    mark = watcher.mark()
    for level in (1, 0, 1, 0, 1):
        panel.set(LOCK, level)
        panel.guest.settle()
    watcher.wait_for_value("virt/panel/lock", True, since=mark)
    readings = values(watcher, "virt/panel/lock", mark)
    assert readings == [True], f"a contact that bounced is {readings}"
    shown("a contact that bounces is one message")


def edges_carry_the_kernels_timestamps(panel, gateway, watcher):
    """While the gateway is stopped, the kernel collects edges. Read all at once afterwards, each still carries the time
    at which it happened, which only the kernel knows."""
    guest, mark = panel.guest, watcher.mark()
    happened = []
    gateway.freeze()
    for level in (1, 0, 1, 0):
        before = guest.clock()
        panel.set(BUTTON, level)
        happened.append((bool(level), before, guest.clock()))
    gateway.thaw()
    watcher.wait_for("virt/panel/button", lambda _: len(values(watcher, "virt/panel/button", mark)) == 4, since=mark)
    for (level, before, after), reading in zip(happened, readings_of(watcher, "virt/panel/button", mark), strict=True):
        at = milliseconds(reading["time"])
        assert (reading["value"], reading["quality"]) == (level, "good"), f"edge to {level}: {reading}"
        assert before <= at <= after, f"an edge between {before} and {after} has the time {at}"
    shown("each edge carries the kernel's timestamp")


def edges_are_counted(panel, gateway, watcher):
    watcher.wait_for_value("virt/panel/flow", 0)
    for count in (1, 2, 3):
        panel.pulse(FLOW)
        watcher.wait_for_value("virt/panel/flow", count)

    # A burst that the kernel has to keep, more than it can: which edges are lost is lost, how many is known.
    mark = watcher.mark()
    gateway.freeze()
    for _ in range(BURST):
        panel.pulse(FLOW)
        panel.guest.settle()
    gateway.thaw()
    doubtful = watcher.wait_for_value("virt/panel/flow", lambda value: value > 3, since=mark)
    assert doubtful["quality"] == "uncertain", doubtful
    assert doubtful["reason"].startswith("edges_lost"), doubtful
    settled = f'"value":{3 + BURST},'.encode()
    watcher.wait_for(
        "virt/panel/flow", lambda message: settled in message.payload and b'"good"' in message.payload, since=mark
    )
    lost = counted(watcher, "virt")["devices"]["panel"]["edges_lost"]
    assert lost == BURST - EVENTS_KEPT, f"{lost} edges are said to be lost"
    panel.pulse(FLOW)
    watcher.wait_for_value("virt/panel/flow", 4 + BURST, since=mark)
    shown(f"edges are counted, also {lost} of which the kernel had no room for more than the number")


def a_flood_does_not_delay_an_edge(panel, gateway, watcher, flood):
    """The gateway stands still until it has more of the flood to read than four turns may take, and then an edge. What it
    says of the flood before it says the edge tells how many turns went by."""
    panel.set(BUTTON, 0)
    flood.start()
    watcher.wait_for(Flood.MARK)
    most = 0
    for level in (1, 0) * 5:
        gateway.freeze()
        flood.wait_for_backlog(4 * READ_PER_TURN)
        mark = watcher.mark()
        panel.set(BUTTON, level)
        gateway.thaw()
        watcher.wait_for_value("virt/panel/button", bool(level), since=mark)
        topics = [message.topic for message in watcher.messages[mark:]]
        read = topics.index("virt/panel/button") * len(Flood.UNIT)
        most = max(most, read)
        # What the turn before it stood still said may have been under way: that is the third.
        assert read <= 3 * READ_PER_TURN + len(Flood.UNIT), f"{read} bytes of a flood were read before an edge"
    flood.end()
    shown(f"an edge arrives within two turns of the loop while a publisher never stops (after {most} bytes at most)")


def commands_drive_lines(panel, watcher):
    for name, line in (("lamp", LAMP), ("heater", HEATER), ("relay", RELAY)):
        for word, active in (("on", True), ("off", False), ("toggle", True), ("false", False)):
            mark = watcher.mark()
            result = command(watcher, f"virt/panel/{name}", word)
            assert (result["status"], result["value"]) == ("ok", active), result
            assert panel.is_active(line) == active, f"after {word!r} the {name} is {'off' if active else 'on'}"
            watcher.wait_for_value(f"virt/panel/{name}", active, since=mark)
    shown("commands drive lines, active-low ones the other way round")

    result = command(watcher, "virt/panel/lamp", "perhaps")
    assert result["status"] == "error", result
    assert not panel.is_active(LAMP), "a command that was refused has changed the line"
    result = command(watcher, "virt/panel/door", "on")
    assert result["status"] == "error", result
    shown("a bad command drives nothing, nor does one to an input")

    mark = watcher.mark()
    result = command(watcher, "virt/panel/lamp", '{"value":true,"for":"300ms"}')
    assert result["status"] == "ok", result
    watcher.wait_for_value("virt/panel/lamp", False, since=mark)
    lit, out = readings_of(watcher, "virt/panel/lamp", mark)
    assert lit["value"], f"a pulse is {lit}, {out}"
    # It lasts from the command on. Times are whole milliseconds.
    length = milliseconds(out["time"]) - milliseconds(lit["time"]) + result["latency_ms"]
    assert length >= 300 - 1, f"a pulse of 300 ms took {length} ms"
    assert not panel.is_active(LAMP), "the lamp is still lit after a pulse"
    shown("a pulse ends by itself")


def a_chip_that_is_not_there_is_a_fault(gateway, watcher):
    watcher.wait_for_text("virt/absent/switch/quality", "fault")
    watcher.wait_for_text("virt/absent/availability", "offline")
    reason = watcher.wait_for("virt/absent/switch/reason").payload.decode()
    assert "no-such-chip" in reason, reason
    gateway.says("read", "absent/switch", status=3)
    watcher.wait_for_text("virt/panel/availability", "online")
    shown(f"a chip that is not there is a fault of that device: {reason}")


def an_unplugged_adapter_is_a_fault_until_it_is_back(panel, watcher):
    guest = panel.guest
    watcher.wait_for_value("virt/scale/weight", 12.5)
    watcher.wait_for_value("virt/meter/level", 3.25)
    shown("both serial ports' lines are messages")

    for weight in (13.75, 14):
        mark = watcher.mark()
        guest.qmp.execute("device_del", id="adapter")
        guest.qmp.wait_for_event("DEVICE_DELETED", device="adapter")
        watcher.wait_for_text("virt/scale/weight/quality", "fault", since=mark)
        watcher.wait_for_text("virt/scale/availability", "offline", since=mark)
        reason = watcher.wait_for("virt/scale/weight/reason", lambda message: message.payload, since=mark).payload
        assert reason.startswith(b"unplugged"), reason
        shown(f"an adapter that is pulled is a fault: {reason.decode()}")

        level = weight / 2
        guest.channels["onboard"].answer = lambda _, level=level: f"level={level}\r\n"
        watcher.wait_for_value("virt/meter/level", level, since=mark)
        panel.set(BUTTON, 1)
        watcher.wait_for_value("virt/panel/button", True, since=mark)
        panel.set(BUTTON, 0)
        watcher.wait_for_value("virt/panel/button", False, since=mark)
        shown("everything else goes on")

        mark = watcher.mark()
        guest.channels["adapter"].answer = lambda _, weight=weight: f"ST,GS,  {weight} kg\r\n"
        guest.qmp.execute("device_add", driver="usb-serial", bus="usb.0", chardev="adapter", id="adapter")
        watcher.wait_for_value("virt/scale/weight", weight, since=mark)
        watcher.wait_for_text("virt/scale/weight/quality", "good", since=mark)
        watcher.wait_for_text("virt/scale/availability", "online", since=mark)
        shown("an adapter that is back is read again")


def an_unplugged_chip_is_a_fault_until_it_is_back(panel, watcher):
    """The driver lets go of the chip, as when a USB adapter with GPIO lines is pulled."""
    driver = "/sys/bus/amba/drivers/pl061_gpio"
    mark = watcher.mark()
    panel.guest.run(f"echo {CHIP} > {driver}/unbind")
    for name in ("door", "button", "flow", "lamp"):
        watcher.wait_for_text(f"virt/panel/{name}/quality", "fault", since=mark)
    watcher.wait_for_text("virt/panel/availability", "offline", since=mark)
    result = command(watcher, "virt/panel/lamp", "on")
    assert result["status"] == "error", result
    mark = watcher.mark()
    panel.guest.run(f"echo {CHIP} > {driver}/bind")
    watcher.wait_for_text("virt/panel/availability", "online", since=mark)
    # Each line comes back by itself.
    for name in ("door", "lamp", "heater", "relay"):
        watcher.wait_for_text(f"virt/panel/{name}/quality", "good", since=mark)
    for level in (0, 1):
        mark = watcher.mark()
        panel.set(DOOR, level)
        watcher.wait_for_value("virt/panel/door", bool(level), since=mark)
    assert command(watcher, "virt/panel/lamp", "on")["status"] == "ok"
    assert panel.is_active(LAMP), "the lamp is not lit"
    shown("a chip that is unplugged is a fault of all its lines until it is back")


def commands_inside_see_what_outside_sees(panel, gateway):
    panel.set(DOOR, 0)
    panel.guest.settle()
    output = gateway.says("read", "panel/door")
    assert "false" in output, f"the door is inactive: {output}"
    panel.set(DOOR, 1)
    panel.guest.settle()
    output = gateway.says("read", "panel/door")
    assert "true" in output, f"the door is active: {output}"
    gateway.says("set", "panel/lamp", "on")
    assert panel.is_active(LAMP), "`fieldgate set panel/lamp on` has not lit the lamp"
    gateway.says("set", "panel/lamp", "off")
    assert not panel.is_active(LAMP), "`fieldgate set panel/lamp off` has not put the lamp out"
    gateway.says("set", "panel/door", "on", status=1)
    shown("read and set in the guest do what they say")


def readings_of(watcher, topic, since):
    return [json.loads(message.payload) for message in watcher.messages[since:] if message.topic == topic]


def values(watcher, topic, since):
    return [reading["value"] for reading in readings_of(watcher, topic, since)]


if __name__ == "__main__":
    scenario.run(main)
