"""What the release binary costs while nothing happens: its system calls, counted by strace over all of its threads, and
its memory.

A deadline is a device's sample falling due. What the sample itself takes is counted too (the files read, the poll sent, its
answer received and published), and so are the clients' keep-alives: everything that the kernel is asked within the window
is divided by the samples that fell due in it. None of this measures time."""

import collections
import contextlib
import os
import pathlib
import pty
import re
import selectors
import socket
import time
import tty
import unittest

from program import Gateway, temporary_folder

CALLS_PER_DEADLINE_MAX = 6
RESIDENT_KIB_MAX = 6 * 1024

WINDOW_SECONDS = 60
EVERY_SECONDS = 10
SYSTEM_DEVICES = 4
LINES_DEVICES = 6
CLIENTS = 10
# The default of most clients.
KEEP_ALIVE_SECONDS = 60

# A gateway without anything to do is watched for so long, and its watchdog is fed so often.
EMPTY_SECONDS = 20
WATCHDOG_SECONDS = 2

POLL = b"read\r\n"
ANSWER = b"weight 12.%d kg\r\n"

# Only a failure waits this long.
PATIENCE = 60


class Idle(unittest.TestCase):
    def test_a_gateway_with_nothing_to_do_makes_no_system_call(self):
        with self.traced() as (gateway, trace):
            house = House()
            house.live_until_quiet(trace)
            house.live(EMPTY_SECONDS)
            house.end_waiting(gateway.port)
            calls = trace.calls(*house.window)
        self.assertEqual(calls.total(), 0, calls)

    def test_the_watchdog_is_the_only_deadline_of_a_gateway_with_nothing_else_to_do(self):
        with environment(WATCHDOG_USEC=f"{2 * WATCHDOG_SECONDS * 1_000_000}"), self.traced() as (gateway, trace):
            house = House()
            house.live_until_quiet(trace, WATCHDOG_SECONDS / 2)
            gateway.notices()
            house.live(EMPTY_SECONDS)
            house.end_waiting(gateway.port)
            calls = trace.calls(*house.window)
            fed = sum(b"WATCHDOG=1" in notice for notice in gateway.notices())
        print(f"{calls.total()} system calls to feed the watchdog {fed} times: {table(calls)}", flush=True)
        self.assertGreaterEqual(fed, EMPTY_SECONDS // WATCHDOG_SECONDS - 1)
        self.assertLessEqual(calls.total(), CALLS_PER_DEADLINE_MAX * fed, calls)

    def test_ten_devices_and_ten_clients(self):
        with contextlib.ExitStack() as stack:
            house = stack.enter_context(House())
            gateway, trace = stack.enter_context(self.traced(house.configuration()))
            house.connect(gateway.port)
            house.live_until_every_port_was_polled_twice()
            # Between two deadlines, so that the window holds whole ones.
            house.live(EVERY_SECONDS / 2)
            house.live(WINDOW_SECONDS)
            house.end_waiting(gateway.port)
            calls = trace.calls(*house.window)
            memory = gateway.memory()
        samples = calls["machine", "statfs"] + calls["machine", "fstatfs"]
        deadlines = samples + house.polls
        print(
            f"{calls.total()} system calls for {samples} samples of the machine, {house.polls} polls of serial ports and"
            f" {house.pings} pings: {calls.total() / deadlines:.2f} a deadline",
            f"{table(calls)}",
            f"memory in KiB: {memory}",
            sep="\n",
            flush=True,
        )
        whole = WINDOW_SECONDS // EVERY_SECONDS
        self.assertGreaterEqual(samples, SYSTEM_DEVICES * (whole - 1), "the devices were not sampled")
        self.assertGreaterEqual(house.polls, LINES_DEVICES * (whole - 1), "the devices were not polled")
        self.assertGreaterEqual(house.heard, deadlines, "the samples were not published")
        self.assertLessEqual(calls.total(), CALLS_PER_DEADLINE_MAX * deadlines)
        self.assertLess(memory["VmRSS"], RESIDENT_KIB_MAX)

    @contextlib.contextmanager
    def traced(self, configuration=""):
        """A gateway under strace, which is its grandchild so that the process that we know is the gateway itself."""
        log = pathlib.Path(self.enterContext(temporary_folder())) / "trace"
        strace = ["strace", "-D", "-f", "-ttt", "--signal=none", "-o", str(log)]
        with Gateway([*strace, os.environ["FIELDGATE"]], configuration) as gateway:
            yield gateway, Trace(gateway.process.pid, log)


class House:
    """The serial devices and the clients around a gateway, played by this thread while it lets time pass."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.open = contextlib.ExitStack()
        self.open.callback(self.selector.close)
        self.ports = []
        self.clients = []
        self.polls_of_ports = collections.Counter()
        self.polls = self.pings = self.heard = 0
        self.window = (0, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open.close()

    def configuration(self):
        """As a user would write it for these devices."""
        lines = ["[gateway.defaults]", f'every = "{EVERY_SECONDS}s"']
        for number in range(SYSTEM_DEVICES):
            disk = ("/", "/tmp", "/var", "/home")[number % 4]
            lines += [f"[device.machine{number}]", 'driver = "system"', f'disk = "{disk}"']
        for number in range(LINES_DEVICES):
            lines += [f"[serial.port{number}]", f'path = "{self.new_port()}"', "baud = 9600"]
            lines += [f"[device.scale{number}]", 'driver = "lines"', f'bus = "serial.port{number}"']
            lines += [r"pattern = 'weight (?<weight>[-+0-9.]+) kg'", r'poll = "read\r\n"']
        return "\n".join(lines) + "\n"

    def new_port(self):
        """The path of a pseudo-terminal whose other end answers polls."""
        ours, theirs = pty.openpty()
        for end in (ours, theirs):
            # Ours, not the gateway's: it lives as long as the house, or the port would be seen to hang up.
            self.open.callback(os.close, end)
        tty.setraw(theirs)
        self.selector.register(ours, selectors.EVENT_READ, self.answer_poll)
        self.ports.append(ours)
        return os.ttyname(theirs)

    def connect(self, broker):
        """Clients that stay connected. The first one listens to everything, as a home automation does."""
        for number in range(CLIENTS):
            client = self.open.enter_context(connected(broker, f"client-{number}"))
            if number == 0:
                client.sendall(packet(0x82, b"\x00\x01" + text(b"#") + b"\x00"))
            client.setblocking(False)
            self.selector.register(client, selectors.EVENT_READ, self.hear)
            # Spread, as those of clients that came one after the other.
            ping = time.monotonic() + KEEP_ALIVE_SECONDS * (number + 1) / CLIENTS
            self.clients.append([ping, client])

    def live(self, seconds):
        """Lets time pass. What happens in it is what the counters say afterwards."""
        self.polls = self.pings = self.heard = 0
        started = time.time()
        self.play_until(time.monotonic() + seconds)
        self.window = (started, time.time())

    def end_waiting(self, broker):
        """A call that has not ended is not in the log. After this, those that were begun in the window are: the loop has
        returned from what it waited for, and strace has seen that before we hear of it."""
        connected(broker, "last").close()

    def live_until_every_port_was_polled_twice(self):
        """After the first sample, which comes as soon as it can, the second one is on the schedule."""
        self.polls_of_ports.clear()
        until = time.monotonic() + PATIENCE
        while any(self.polls_of_ports[port] < 2 for port in self.ports):
            if time.monotonic() > until:
                raise AssertionError(f"ports were polled {dict(self.polls_of_ports)} times")
            self.play_until(time.monotonic() + 0.1)

    def live_until_quiet(self, trace, seconds=1):
        """A gateway that has just started still writes its log and closes what it has opened."""
        until = time.monotonic() + PATIENCE
        calls = None
        while calls is None or calls.total() > 0:
            if time.monotonic() > until:
                raise AssertionError(f"it is never quiet: {table(calls)}")
            self.live(seconds)
            calls = trace.calls(*self.window)

    def play_until(self, end):
        while (now := time.monotonic()) < end:
            pings = [due for due, _ in self.clients]
            for key, _ in self.selector.select(max(0, min([end, *pings]) - now)):
                key.data(key.fileobj)
            for client in self.clients:
                if client[0] <= time.monotonic():
                    client[0] += KEEP_ALIVE_SECONDS
                    client[1].send(packet(0xC0, b""))
                    self.pings += 1

    def answer_poll(self, port):
        for _ in range(os.read(port, 1024).count(POLL)):
            os.write(port, ANSWER % (self.polls % 10))
            self.polls += 1
            self.polls_of_ports[port] += 1

    def hear(self, client):
        heard = client.recv(65536)
        if not heard:
            raise AssertionError("the broker has closed a client's connection")
        self.heard += heard.count(b"test/")


class Trace:
    """The log of a strace that watches a process."""

    LINE = re.compile(r"(?P<thread>\d+) +(?P<at>\d+\.\d+) (?P<call>\w+)\(")

    def __init__(self, process, log):
        self.process = process
        self.log = log

    def calls(self, start, end):
        """How many were begun in the window, by thread and name. A line `<... resumed` is the end of one."""
        names = self.names_of_threads()
        calls = collections.Counter()
        for line in self.log.read_text().splitlines():
            begun = self.LINE.match(line)
            if begun and start <= float(begun["at"]) <= end:
                thread = int(begun["thread"])
                calls[names.get(thread, f"thread {thread}"), begun["call"]] += 1
        return calls

    def names_of_threads(self):
        names = {}
        for task in pathlib.Path(f"/proc/{self.process}/task").iterdir():
            name = (task / "comm").read_text().strip()
            names[int(task.name)] = "loop" if int(task.name) == self.process else name
        return names


def connected(broker, name):
    """A client in MQTT 3.1.1."""
    client = socket.create_connection(("127.0.0.1", broker), PATIENCE)
    client.sendall(packet(0x10, b"\x00\x04MQTT\x04\x02" + KEEP_ALIVE_SECONDS.to_bytes(2, "big") + text(name.encode())))
    if receive_exactly(client, 4) != b"\x20\x02\x00\x00":
        raise AssertionError("the broker does not accept a client")
    return client


def table(calls):
    return ", ".join(f"{thread} {call} {count}" for (thread, call), count in calls.most_common())


def packet(kind, body):
    if len(body) > 127:
        raise ValueError("only short packets are written here")
    return bytes([kind, len(body)]) + body


def text(data):
    return len(data).to_bytes(2, "big") + data


def receive_exactly(client, count):
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        if not more:
            raise AssertionError(f"the broker closed the connection after {data!r}")
        data += more
    return data


@contextlib.contextmanager
def environment(**variables):
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    unittest.main()
