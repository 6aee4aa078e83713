"""The gateway on a Raspberry Pi 3 B: an I2C thermometer that grows warmer and colder from outside, a line of the
header, the PL011, and the board as `fieldgate scan` sees it."""

import json

import device_tree
from scenario import arguments, booted, gateway, shown

# GPLEV0 of the BCM2837: the levels of lines 0 to 31. Pin 11 of the header is line 17.
LEVELS = 0x3F20_0034
RELAY = 17

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
        scan_names_the_board(guest)
        guest.channels["onboard"].answer = lambda _: "level=3.25\r\n"
        set_temperature(guest, 21.5)
        with gateway(guest) as watcher:
            temperatures_are_messages(guest, watcher)
            a_chip_that_is_not_there_is_a_fault(guest, watcher)
            a_command_drives_a_pin_of_the_header(guest, watcher)
            watcher.wait_for_value("pi/meter/level", 3.25)
            shown("the PL011's lines are messages")


def scan_names_the_board(guest):
    status, output = guest.run("fieldgate scan")
    assert status == 0, f"fieldgate scan: exit status {status}: {output}"
    for expected in ("Raspberry Pi 3 B", "pinctrl-bcm2835", "/dev/ttyAMA0"):
        assert expected in output, f"fieldgate scan does not say {expected!r}: {output}"
    shown("scan names the board and its GPIO chip")


def set_temperature(guest, celsius):
    path = "/machine/peripheral/thermometer"
    guest.qmp.execute("qom-set", path=path, property="temperature", value=round(celsius * 1000))


def temperatures_are_messages(guest, watcher):
    watcher.wait_for_value("pi/room/temperature", 21.5)
    # Zero and below: a register of two's complement.
    for celsius in (25.5, 0, -10, 80.0625):
        mark = watcher.mark()
        set_temperature(guest, celsius)
        reading = watcher.wait_for_value("pi/room/temperature", close_to(celsius), since=mark)
        assert (reading["quality"], reading["unit"]) == ("good", "°C"), reading
    shown("temperatures set from outside are messages")


def close_to(celsius):
    """Within the chip's resolution, to which values are rounded."""

    def close(value):
        return value is not None and abs(value - celsius) < 0.0625

    close.__name__ = f"about {celsius}"
    return close


def a_chip_that_is_not_there_is_a_fault(guest, watcher):
    watcher.wait_for_text("pi/missing/temperature/quality", "fault")
    reason = watcher.wait_for("pi/missing/temperature/reason").payload.decode()
    mark = watcher.mark()
    set_temperature(guest, 33)
    watcher.wait_for_value("pi/room/temperature", close_to(33), since=mark)
    shown(f"a chip that is not there is a fault, and no other's: {reason}")


def a_command_drives_a_pin_of_the_header(guest, watcher):
    for command, active in (("on", True), ("off", False)):
        mark = watcher.mark()
        watcher.publish("pi/header/relay/set", command)
        result = json.loads(watcher.wait_for("pi/header/relay/result", since=mark).payload)
        assert result["status"] == "ok", result
        assert bool(guest.qtest.read_register(LEVELS) & 1 << RELAY) == active, f"{command!r} left the pin as it was"
    shown("a command drives a pin of the header")


if __name__ == "__main__":
    main()
