"""The gateway on a Raspberry Pi 3 B: an I2C thermometer that grows warmer and colder from outside, lines of the header,
the PL011, and the board as `fieldgate scan` sees it."""

import json
import math

import device_tree
import scenario
from scenario import Gateway, arguments, booted, command, counted, milliseconds, shown

# The BCM2837's registers for lines 0 to 31: what they are, and what sets and clears them.
LEVELS = 0x3F20_0034
SET = 0x3F20_001C
CLEAR = 0x3F20_0028
# Lines of the header, as in raspi3b.toml. The relay is at pin 11, the valve is on while its line is low.
RELAY, VALVE, SWITCH = 17, 22, 27

MODULES = "i2c-dev i2c-bcm2835 spi-bcm2835 spidev phy-generic dwc2 usbnet cdc_ether rndis_host".split()
# Two UARTs so that the console is ttyS1; iomem=relaxed lets rppal map the registers; the rest is for small memory
# and QEMU's USB controller.
COMMAND_LINE = "console=ttyS1,115200 8250.nr_uarts=2 iomem=relaxed dwc_otg.lpm_enable=0 cma=16M"


def main():
    given = arguments()
    tree = given.work / "raspi3b.dtb"
    device_tree.write(given.guest_files, tree)
    with booted(
        "raspi3b",
        (
            "-M", "raspi3b", "-dtb", tree,
            "-serial", "chardev:onboard", "-serial", "chardev:console",
            "-device", "usb-net,netdev=net",
            "-device", "tmp105,bus=i2c-bus.1,address=0x48,id=thermometer",
        ),  # fmt: skip
        given=given,
        modules=MODULES,
        console="ttyS1",
        command_line=COMMAND_LINE,
        channels=("onboard",),
    ) as guest:
        guest.channels["onboard"].answer = lambda _: "level=3.25\r\n"
        gateway = Gateway(guest)
        scan_names_the_board(guest)
        the_hardware_is_checked(gateway)
        set_temperature(guest, 21.5)
        with gateway.running() as watcher:
            temperatures_are_messages(guest, watcher)
            a_chip_that_is_not_there_is_a_fault(guest, gateway, watcher)
            commands_drive_pins_of_the_header(guest, watcher)
            an_input_of_the_header_is_read(guest, gateway)
            the_machine_itself_is_measured(watcher)
            watcher.wait_for_value("pi/meter/level", 3.25)
            shown("the PL011's lines are messages")
            a_chip_that_is_not_there_is_left_alone(guest, watcher)
            for name in ("relay", "valve"):
                assert command(watcher, f"pi/header/{name}", "on")["status"] == "ok"
            assert (is_high(guest, RELAY), is_high(guest, VALVE)) == (True, False), "relay and valve are not on"
            gateway.stop()
        assert (is_high(guest, RELAY), is_high(guest, VALVE)) == (False, True), "relay and valve are not off"
        shown("relay and valve are off after a clean stop")


def scan_names_the_board(guest):
    status, output = guest.run("fieldgate scan --json")
    assert status == 0, f"fieldgate scan: exit status {status}: {output}"
    found = json.loads(output)
    assert found["board"] == {"model": "Raspberry Pi 3 Model B", "raspberry_pi": "Raspberry Pi 3 B"}, found["board"]
    (chip,) = (chip for chip in found["gpio"] if chip["label"] == "pinctrl-bcm2835")
    assert chip["lines"][SWITCH]["name"] == "GPIO27", chip["lines"][SWITCH]
    assert 1 in [bus["number"] for bus in found["i2c"]], found["i2c"]
    assert [(device["name"], device["driver"]) for device in found["spi"]] == [("spi0.0", "spidev")], found["spi"]
    assert "/dev/ttyAMA0" in [port["path"] for port in found["serial"]], found["serial"]
    assert found["problems"] == [], found["problems"]
    shown("scan knows the board as rppal does, its GPIO chip and lines, buses and serial ports")


def the_hardware_is_checked(gateway):
    status, output = gateway.check()
    assert status == 1, f"a chip is missing, and the exit status of check --hardware is {status}: {output}"
    failed = [line for line in output.splitlines() if "FAILED" in line]
    assert len(failed) == 1, output
    assert "0x49" in failed[0], output
    shown(f"check finds all the hardware but the chip that is not there: {failed[0]}")


def set_temperature(guest, celsius):
    path = "/machine/peripheral/thermometer"
    # In thousandths, of which QEMU makes steps of 1/16 °C by rounding down.
    guest.qmp.execute("qom-set", path=path, property="temperature", value=math.ceil(celsius * 1000))


def temperatures_are_messages(guest, watcher):
    reading = watcher.wait_for_value("pi/room/temperature", 21.5)
    assert reading["time"] is None, f"a Pi 3 has no clock of its own, and one that nobody has set says {reading['time']}"
    guest.set_clock()
    # Zero and below: a register of two's complement.
    for celsius in (25.5, 0, -10, 80.0625):
        mark, before = watcher.mark(), guest.clock()
        set_temperature(guest, celsius)
        reading = watcher.wait_for_value("pi/room/temperature", celsius, since=mark)
        assert (reading["quality"], reading["unit"]) == ("good", "°C"), reading
        assert before <= milliseconds(reading["time"]) <= guest.clock(), f"{reading} is from {before}"
    shown("temperatures set from outside are messages, with a time as soon as it is known")


def a_chip_that_is_not_there_is_a_fault(guest, gateway, watcher):
    watcher.wait_for_text("pi/missing/temperature/quality", "fault")
    watcher.wait_for_text("pi/missing/availability", "offline")
    reason = watcher.wait_for("pi/missing/temperature/reason").payload.decode()
    assert "0x49" in reason, reason
    output = gateway.says("read", "missing/temperature", status=3)
    assert "0x49" in output, output
    mark = watcher.mark()
    set_temperature(guest, 33)
    watcher.wait_for_value("pi/room/temperature", 33, since=mark)
    output = gateway.says("read", "room/temperature")
    assert "33 °C" in output, output
    shown(f"a chip that is not there is a fault, and no other's: {reason}")


def a_chip_that_is_not_there_is_left_alone(guest, watcher):
    """It is asked less and less often; the one beside it as often as ever."""

    def so_far():
        devices = counted(watcher, "pi")["devices"]
        return devices["room"]["readings"], devices["missing"]["faults"]["no_answer"]

    read, asked = so_far()
    for celsius in range(12):
        mark = watcher.mark()
        set_temperature(guest, celsius)
        watcher.wait_for_value("pi/room/temperature", celsius, since=mark)
    read, asked = (now - before for now, before in zip(so_far(), (read, asked)))
    assert asked <= read / 4, f"{read} readings of one chip, and {asked} attempts at the other"
    shown(f"{read} readings of one chip, and {asked} attempts at the one that is not there")


def commands_drive_pins_of_the_header(guest, watcher):
    for name, line, active_low in (("relay", RELAY, False), ("valve", VALVE, True)):
        assert is_high(guest, line) == active_low, f"the {name} is not in its safe state"
        for word, active in (("on", True), ("off", False)):
            result = command(watcher, f"pi/header/{name}", word)
            assert (result["status"], result["value"]) == ("ok", active), result
            assert is_high(guest, line) == (active != active_low), f"{word!r} left the {name} as it was"
    shown("commands drive pins of the header")


def is_high(guest, line):
    return bool(guest.qtest.read_register(LEVELS) & 1 << line)


def an_input_of_the_header_is_read(guest, gateway):
    for register, expected in ((SET, "true"), (CLEAR, "false"), (SET, "true")):
        guest.qtest.execute(f"writel {register:#x} {1 << SWITCH:#x}")
        output = gateway.says("read", "header/switch")
        assert expected in output, f"the switch is {expected}: {output}"
    shown("read in the guest reads an input of the header")


def the_machine_itself_is_measured(watcher):
    watcher.wait_for_value("pi/machine/uptime", lambda value: value is not None and value > 0)
    watcher.wait_for_value("pi/machine/memory_used", lambda value: value is not None and value > 0)
    shown("the machine's own sensors are messages")


if __name__ == "__main__":
    scenario.run(main)
