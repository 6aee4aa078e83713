"""Debian's device tree of the Raspberry Pi 3 B, changed to what QEMU's board has and the tests need."""

import shutil
import subprocess

# The BCM2837's peripherals are named by their bus addresses.
BLUETOOTH = "/soc/serial@7e201000/bluetooth"
SPI = "/soc/spi@7e204000"


def write(guest_files, path):
    """Writes the edited tree to `path`."""
    (original,) = guest_files.glob("usr/lib/linux-image-*/broadcom/bcm2837-rpi-3-b.dtb")
    shutil.copy(original, path)
    # The PL011 belongs to the Bluetooth chip, which QEMU has not: it becomes /dev/ttyAMA0.
    fdtput(path, "-r", BLUETOOTH)
    # SPI is off by default, and QEMU's controller has no DMA. The compatible is one that spidev takes.
    fdtput(path, "-t", "s", SPI, "status", "okay")
    fdtput(path, "-d", SPI, "dmas", "dma-names")
    fdtput(path, "-c", f"{SPI}/dev@0")
    fdtput(path, "-t", "s", f"{SPI}/dev@0", "compatible", "rohm,dh2228fv")
    fdtput(path, "-t", "x", f"{SPI}/dev@0", "reg", "0")
    fdtput(path, "-t", "u", f"{SPI}/dev@0", "spi-max-frequency", "10000000")


def fdtput(path, *arguments):
    # Options come before the file's name, the node and the rest after it.
    options = [a for a in arguments if a.startswith("-")]
    position = len(options) + (1 if "-t" in options else 0)
    subprocess.run(["fdtput", *arguments[:position], path, *arguments[position:]], check=True)
