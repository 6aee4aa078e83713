"""An ARM build of fieldgate does its work: `check`, then a broker and two clients, all of that build, through which a
QoS 1 message goes. Arguments: the target and the program. It runs under QEMU's user emulation."""

import subprocess
import sys

from program import Gateway

# Each with the CPU of the oldest Pi that the target is for, and where its C library is.
EMULATORS = {
    "aarch64": ("qemu-aarch64-static", "-cpu", "cortex-a53", "-L", "/usr/aarch64-linux-gnu"),
    "armv7": ("qemu-arm-static", "-cpu", "cortex-a7", "-L", "/usr/arm-linux-gnueabihf"),
    "armv6": ("qemu-arm-static", "-cpu", "arm1176"),
}
SECONDS_MAX = 60


def main():
    target, binary = sys.argv[1:]
    fieldgate = (*EMULATORS[target], binary)
    version = run(fieldgate, "--version").strip()
    with Gateway(fieldgate, '[device.machine]\ndriver = "system"\n') as gateway:
        run(fieldgate, "check", "--config", str(gateway.file))
        broker = ("-h", "127.0.0.1", "-p", str(gateway.port))
        # Retained, so that it does not matter who comes first.
        run(fieldgate, "pub", *broker, "-t", "round/trip", "-m", "there and back", "-q", "1", "-r")
        heard = run(fieldgate, "sub", *broker, "-t", "round/trip", "-q", "1", "-C", "1")
        if heard != "there and back\n":
            sys.exit(f"{target}: the message came back as {heard!r}")
    print(f"{target}: {version} checks, and a QoS 1 message went through its broker and both its clients", flush=True)


def run(fieldgate, *arguments):
    done = subprocess.run(
        [*fieldgate, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
    )
    if done.returncode != 0:
        sys.exit(f"fieldgate {' '.join(arguments)}: exit status {done.returncode}: {done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
