"""A QEMU guest: its process, its console, and the two doors through which the outside world of the virtual board
is changed: QMP (devices come and go, sensors get warm) and qtest (levels on pins, registers of chips)."""

import contextlib
import json
import pathlib
import queue
import re
import socket
import subprocess
import threading
import time

# An emulated CPU on a busy machine: generous, since only a failure waits this long.
PATIENCE = 120
CONSOLE_LINES_SHOWN = 60
# QEMU's own answer to a command, which it gives at once.
ANSWER_SECONDS_MAX = 60


class GuestFailure(Exception):
    """The guest did not do what was asked of it, or is gone."""


class EmulatorHangs(GuestFailure):
    """QEMU itself does not answer, whatever the guest does: nothing that runs in the guest can bring that about."""


class Guest:
    """Runs from construction to close(), or as a context. `channels` names further sockets, which the arguments refer
    to as chardevs of the same names."""

    def __init__(self, *arguments, channels=(), seconds=600):
        ends, chardevs = {}, []
        for name in ("console", "qmp", "qtest", *channels):
            ends[name] = socket.socketpair()
            chardevs += ["-chardev", f"socket,id={name},fd={ends[name][1].fileno()}"]
        # setpriv, so that it also ends when this program is killed before it can end it.
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "qemu-system-aarch64", "-accel", "tcg", *chardevs,
             "-mon", "chardev=qmp,mode=control", "-qtest", "chardev:qtest", "-qtest-log", "none",
             "-display", "none", "-no-reboot", *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno() for _, theirs in ends.values()],
        )  # fmt: skip
        for _, theirs in ends.values():
            theirs.close()
        # Whatever happens, it ends; everything that waits for it then finds its sockets closed.
        self.limit = threading.Timer(seconds, self.process.kill)
        self.limit.daemon = True
        self.limit.start()
        self.console = Console(ends["console"][0])
        self.qmp = Qmp(ends["qmp"][0], self.process.pid)
        self.qtest = Qtest(ends["qtest"][0])
        self.channels = {name: Channel(ends[name][0]) for name in channels}

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        hang = failure and self.hang(failure)
        self.close()
        if failure:
            self.show_console()
        if hang:
            raise hang

    def show_console(self):
        print("the end of the guest's console:", flush=True)
        lines = [line for line in self.console.text().splitlines() if not re.match(r"\[(begin|end) \d+", line)]
        for line in lines[-CONSOLE_LINES_SHOWN:]:
            print(f"  | {line}", flush=True)

    def hang(self, failure):
        """Whether it is QEMU that has failed, whatever the failure looked like: then it answers nothing at all."""
        if issubclass(failure, EmulatorHangs):
            return None
        try:
            self.qmp.execute("query-status")
        except EmulatorHangs as hang:
            return hang
        except GuestFailure:
            # It has ended.
            return None
        return None

    def close(self):
        self.limit.cancel()
        self.process.kill()
        self.process.wait()

    def wait_until_ready(self):
        self.console.wait_for("guest is ready")

    def run(self, command, patience=PATIENCE):
        """Runs one line of shell in the guest: its exit status and what the console showed meanwhile."""
        self.console.commands += 1
        number, since = self.console.commands, self.console.mark()
        self.console.send(command + "\n")
        shown = self.console.wait_for(rf"\[begin {number}\]\n(.*)\[end {number} (\d+)\]", patience, since)
        return int(shown[2]), shown[1]

    def settle(self):
        """Returns when the guest has done with every interrupt before: its shell, which answers, comes after them."""
        self.run(":")

    def wait_for_device(self, path):
        """Returns when the kernel has made this device."""
        self.run(f"until [ -e {path} ]; do sleep 0.1; done")

    def set_clock(self):
        """To this machine's time."""
        self.run(f"date -s @{int(time.time())}")

    def clock(self):
        """The guest's wall clock, in whole milliseconds, rounded down."""
        _, shown = self.run("adjtimex")
        seconds, micros = (int(re.search(rf"time.tv_{unit}:\s+(\d+)", shown)[1]) for unit in ("sec", "usec"))
        return seconds * 1000 + micros // 1000

    def forwarded_port(self):
        """The port of this machine that leads to the guest's port 1883."""
        table = self.qmp.execute("human-monitor-command", **{"command-line": "info usernet"})
        forward = re.search(r"TCP\[HOST_FORWARD\]\s+\S+\s+127\.0\.0\.1\s+(\d+)", table)
        if not forward:
            raise GuestFailure(f"no forwarded port in {table!r}")
        return int(forward[1])


class Channel:
    """The far end of one of the guest's serial devices. `answer`, if it is set, is called with each line that comes, and
    what it returns is sent."""

    def __init__(self, end):
        self.end = end
        self.answer = None
        self.received = b""
        self.changed = threading.Condition()
        self.open = True
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        line = b""
        while True:
            try:
                received = self.end.recv(65536)
            except OSError:
                received = b""
            with self.changed:
                self.received += received
                self.open = bool(received)
                self.changed.notify_all()
            if not received:
                return
            *lines, line = (line + received).split(b"\n")
            for complete in lines:
                if self.answer:
                    self.send(self.answer(complete.decode(errors="replace").strip()))

    def send(self, text):
        self.end.sendall(text.encode())

    def text(self):
        return self._text_since(0)

    def _text_since(self, mark):
        return self.received[mark:].decode(errors="replace").replace("\r", "")

    def mark(self):
        """A place in what has come, for `since`."""
        with self.changed:
            return len(self.received)

    def wait_for(self, pattern, patience=PATIENCE, since=0):
        """The first match in what came after the mark."""

        def match():
            return re.search(pattern, self._text_since(since), re.DOTALL)

        with self.changed:
            self.changed.wait_for(lambda: not self.open or match(), patience)
            found = match()
            if found:
                return found
            raise GuestFailure(f"{'no' if self.open else 'the guest ended before'} {pattern!r} after {patience} s")


class Console(Channel):
    """The kernel's messages, and the shell of tests/pi/init."""

    def __init__(self, end):
        super().__init__(end)
        self.commands = 0


class Qmp:
    """QEMU's machine protocol: JSON objects, one a line; events come in between."""

    def __init__(self, end, pid):
        self.pid = pid
        self.lines = end.makefile("rw")
        self.answers = queue.Queue()
        self.events = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.execute("qmp_capabilities")

    def _read(self):
        # What it has not read when it ends resets the connection.
        with contextlib.suppress(ConnectionResetError):
            for line in self.lines:
                message = json.loads(line)
                if "event" in message:
                    self.events.put(message)
                elif "QMP" not in message:
                    self.answers.put(message)
        self.answers.put({"error": {"desc": "QEMU ended"}})
        self.events.put({"event": "QEMU ended"})

    def execute(self, command, **arguments):
        print(json.dumps({"execute": command, "arguments": arguments}), file=self.lines, flush=True)
        try:
            answer = self.answers.get(timeout=ANSWER_SECONDS_MAX)
        except queue.Empty:
            raise EmulatorHangs(f"no answer to QMP {command} after {ANSWER_SECONDS_MAX} s; {self.threads()}") from None
        if "error" in answer:
            raise GuestFailure(f"QMP {command}: {answer['error']['desc']}")
        return answer["return"]

    def threads(self):
        """What QEMU's threads are at, as far as the kernel knows."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
        return ", ".join(
            " ".join((task / file).read_text().split("\n")[0] for file in ("comm", "wchan", "syscall")) for task in tasks
        )

    def wait_for_event(self, name, **data):
        while True:
            event = self.events.get(timeout=PATIENCE)
            if event["event"] == "QEMU ended":
                raise GuestFailure(f"QEMU ended before the event {name}")
            if event["event"] == name and data.items() <= event.get("data", {}).items():
                return

    def path_of(self, kind):
        """Where the machine's own device of this kind is in QEMU's object tree."""
        folder = "/machine/unattached"
        for entry in self.execute("qom-list", path=folder):
            if entry["type"] == f"child<{kind}>":
                return f"{folder}/{entry['name']}"
        raise GuestFailure(f"QEMU's machine has no {kind}")


class Qtest:
    """QEMU's test protocol: a command a line, answered by `OK` and perhaps a value."""

    def __init__(self, end):
        end.settimeout(ANSWER_SECONDS_MAX)
        self.lines = end.makefile("rw")

    def execute(self, command):
        print(command, file=self.lines, flush=True)
        while True:
            try:
                answer = self.lines.readline().split()
            except TimeoutError:
                raise EmulatorHangs(f"no answer to qtest {command} after {ANSWER_SECONDS_MAX} s") from None
            if answer[:1] == ["OK"]:
                return answer[1:]
            if answer[:1] != ["IRQ"]:
                raise GuestFailure(f"qtest {command}: {' '.join(answer) or 'QEMU ended'}")

    def set_pin(self, chip, pin, level):
        """Drives an input of a GPIO chip from outside, which makes a real interrupt."""
        self.execute(f"set_irq_in {chip} unnamed-gpio-in {pin} {level}")

    def read_register(self, address):
        return int(self.execute(f"readl {address:#x}")[0], 0)
