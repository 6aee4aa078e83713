"""fieldgate as a process: started with a configuration in a folder of its own, ready when it says so to its service
manager (which is us), and stopped as a service manager would."""

import contextlib
import os
import pathlib
import select
import signal
import socket
import subprocess
import tempfile
import time

from output import Output

# For a program under an emulator on a busy machine. Only a failure waits this long.
START_SECONDS_MAX = 60
# INTERFACE: SIGTERM stops cleanly within this.
STOP_SECONDS_MAX = 5


class ProgramFailure(AssertionError):
    """It did not start, or did not stop, as it should."""


class Program:
    """Running from construction to stop(), or as a context, which ends with a clean stop."""

    def __init__(self, command, *arguments, folder=None):
        self.folder = folder or temporary_folder()
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = str(pathlib.Path(self.folder.name) / "notify")
        self.manager.bind(address)
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"NOTIFY_SOCKET": address},
        )
        self.output = Output(self.process.stdout)
        try:
            self._wait_until_ready()
        except ProgramFailure:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        if failure:
            print(self.text(), flush=True)
            self.end()
        else:
            self.stop()

    def _wait_until_ready(self):
        manager = self.manager
        exited = os.pidfd_open(self.process.pid)
        deadline = time.monotonic() + START_SECONDS_MAX
        try:
            while True:
                readable, _, _ = select.select([manager, exited], [], [], max(0, deadline - time.monotonic()))
                if manager in readable:
                    if b"READY=1" in manager.recv(4096):
                        return
                elif exited in readable:
                    raise ProgramFailure(f"exit status {self.process.wait()} before READY=1: {self.output.rest()}")
                elif not readable:
                    raise ProgramFailure(f"no READY=1 within {START_SECONDS_MAX} s: {self.text()}")
        finally:
            os.close(exited)

    def notices(self):
        """What it has told its service manager since it was ready, or since this was last asked."""
        notices = []
        with contextlib.suppress(BlockingIOError):
            while True:
                notices.append(self.manager.recv(4096, socket.MSG_DONTWAIT))
        return notices

    def memory(self):
        """The sizes that the kernel gives for it, in KiB, by the names of proc(5)."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines) if size.endswith(" kB")}

    def text(self):
        """What it has printed so far."""
        return self.output.text()

    def wait_for(self, pattern):
        """The first match of a regular expression in what it prints."""
        found = self.output.wait_for(pattern)
        if not found:
            text = self.text()
            self.end()
            raise ProgramFailure(f"it did not print {pattern}, but: {text}")
        return found

    def stop(self, by=signal.SIGTERM):
        """Asks it to stop; it has to, in time and with exit status 0. Returns the seconds that it took."""
        started = time.monotonic()
        self.process.send_signal(by)
        try:
            status = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise ProgramFailure(f"still running {STOP_SECONDS_MAX} s after {by.name}: {self.text()}") from None
        finally:
            text = self.end()
        if status != 0:
            raise ProgramFailure(f"exit status {status} after {by.name}: {text}")
        return time.monotonic() - started

    def end(self):
        """It is not there any more, whatever it was at; returns all that it printed."""
        self.process.kill()
        self.process.wait()
        self.manager.close()
        text = self.output.rest()
        self.folder.cleanup()
        return text


class Gateway(Program):
    """`fieldgate run` with a listener on the loopback, at a port that the system chose, and what `more` adds to the
    configuration."""

    def __init__(self, command, more=""):
        folder = temporary_folder()
        self.file = pathlib.Path(folder.name) / "fieldgate.toml"
        self.file.write_text(configuration(folder.name) + more)
        super().__init__(command, "run", "--config", str(self.file), folder=folder)
        self.port = int(self.wait_for(r"listening name=local address=127\.0\.0\.1:(\d+)\n")[1])


class Demo(Program):
    """`fieldgate demo`, on the port that it prints."""

    def __init__(self, command):
        super().__init__(command, "demo")
        self.port = int(self.wait_for(r"an MQTT broker at 127\.0\.0\.1:(\d+)\D")[1])


def temporary_folder():
    return tempfile.TemporaryDirectory(prefix="fieldgate-test.")


def configuration(folder):
    return f"""
[gateway]
name = "test"
data_dir = "{folder}/data"
[listener.local]
bind = "127.0.0.1:0"
[control]
socket = "{folder}/control.sock"
"""
