"""A publisher of MQTT 3.1.1 in a few lines, that goes on after whatever happened to its connection: what is not
acknowledged is sent again, with DUP and its identifier, in order."""

import collections
import math
import select
import socket
import struct
import time

# Of payloads, in turn.
SIZES = (16, 64, 400)
# Unacknowledged at once.
WINDOW = 20
# Between two connections, in seconds, if the first came to nothing.
BACK_OFF = 0.01
# A publisher that waits, and has heard nothing for so many seconds, connects anew.
SILENCE = 5
# One that may not send looks again after so many.
PAUSE = 0.05
# A broker that is being killed all the time may take this long to acknowledge something.
PATIENCE = 60

PUBACK, PUBREC, PUBREL, PUBCOMP = 4, 5, 6, 7


class Gone(Exception):
    """The connection is."""


class Lost(AssertionError):
    """Something that the broker has acknowledged is not there, or comes as it must not."""


def remaining_length(count):
    encoded = b""
    while True:
        count, low = divmod(count, 128)
        encoded += bytes([low | (0x80 if count else 0)])
        if not count:
            return encoded


def packet(first, body):
    return bytes([first]) + remaining_length(len(body)) + body


def text(word):
    return struct.pack(">H", len(word)) + word.encode()


class Connection:
    """A session of this name that outlives its connections, unless it is to be `clean`, and the packets that come. `port` is
    one of the loopback, or an address with its port."""

    def __init__(self, port, name, clean=False):
        address = port if isinstance(port, tuple) else ("127.0.0.1", port)
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bytes = bytearray()
        self.found = collections.deque()
        self.send(packet(0x10, text("MQTT") + bytes([4, 2 if clean else 0, 0, 60]) + text(name)))
        kind, body = next(self.packets())
        if kind != 0x20 or body[1] != 0:
            raise Gone(f"refused: {kind:#x} {body.hex()}")
        self.is_present = bool(body[0])

    def close(self):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Gone(error) from error

    def packets(self, wait=PATIENCE):
        """Those that have come, at least one, and none after `wait` seconds."""
        self.found.extend(self._complete())
        while not self.found:
            readable, _, _ = select.select([self.socket], [], [], wait)
            if not readable:
                return
            try:
                data = self.socket.recv(65536)
            except OSError as error:
                raise Gone(error) from error
            if not data:
                raise Gone("closed")
            self.bytes += data
            self.found.extend(self._complete())
        while self.found:
            yield self.found.popleft()

    def _complete(self):
        while True:
            length, shift, at = 0, 0, 1
            while True:
                if at >= len(self.bytes):
                    return
                byte = self.bytes[at]
                length |= (byte & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if not byte & 0x80:
                    break
            if len(self.bytes) < at + length:
                return
            kind, body = self.bytes[0], bytes(self.bytes[at : at + length])
            del self.bytes[: at + length]
            yield kind, body


def open_connection(port, name):
    """None: the broker was killed meanwhile. `port` waits until it listens again."""
    try:
        return Connection(port(), name)
    except (Gone, OSError, StopIteration):
        return None


class Sender:
    """Publishes messages, payloads NAME NUMBER, to one topic, `count` of them or until `finish`; `acknowledged` is how
    many of them were, in order. `port` says where the broker listens, once it does. It is silent while not `may_send()`."""

    def __init__(self, name, port, topic, qos, count=math.inf, retain=False, window=WINDOW, may_send=lambda: True):
        self.name, self.port, self.topic, self.qos, self.count = name, port, topic, qos, count
        self.retain, self.window, self.may_send = retain, window, may_send
        self.acknowledged = 0
        # Identifier: (number, released), oldest first.
        self.underway = collections.OrderedDict()
        self.next_number = 0
        self.next_id = 1
        self.connections = 0
        self.heard = time.monotonic()

    def finish(self):
        """Nothing new is published: `run` returns when all that was is acknowledged."""
        self.count = 0

    def _is_over(self):
        return not self.underway and self.next_number >= self.count

    def run(self):
        self.heard = time.monotonic()
        while not self._is_over():
            self._insist()
            connection = open_connection(self.port, self.name)
            if not connection:
                # One that comes back at once would keep a processor busy.
                time.sleep(BACK_OFF)
                continue
            if self.connections and not connection.is_present:
                raise Lost(f"{self.name}'s session is gone")
            self.connections += 1
            try:
                self._serve(connection)
            except Gone:
                pass
            finally:
                connection.close()

    def _insist(self):
        if time.monotonic() - self.heard > PATIENCE:
            raise AssertionError(f"{self.name}: {self.acknowledged} of {self.next_number} acknowledged, and no more")

    def _publish(self, identifier, number, dup):
        payload = f"{self.name} {number}".encode().ljust(SIZES[number % len(SIZES)])
        first = 0x30 | dup << 3 | self.qos << 1 | self.retain
        return packet(first, text(self.topic) + struct.pack(">H", identifier) + payload)

    def _serve(self, connection):
        again = b""
        for identifier, (number, is_released) in self.underway.items():
            if is_released:
                again += packet(0x62, struct.pack(">H", identifier))
            else:
                again += self._publish(identifier, number, True)
        if again:
            connection.send(again)
        while not self._is_over():
            fresh = b""
            while len(self.underway) < self.window and self.next_number < self.count and self.may_send():
                while self.next_id in self.underway:
                    self.next_id = self.next_id % 65535 + 1
                fresh += self._publish(self.next_id, self.next_number, False)
                self.underway[self.next_id] = (self.next_number, False)
                self.next_number += 1
                self.next_id = self.next_id % 65535 + 1
            if fresh:
                connection.send(fresh)
            answers = b""
            heard = False
            for kind, body in connection.packets(SILENCE if self.underway else PAUSE):
                heard = True
                kind, identifier = kind >> 4, struct.unpack(">H", body[:2])[0]
                if kind in (PUBACK, PUBCOMP):
                    if self.underway.pop(identifier, None):
                        self.acknowledged += 1
                        self.heard = time.monotonic()
                elif kind == PUBREC:
                    number, _ = self.underway.get(identifier, (None, None))
                    self.underway[identifier] = (number, True)
                    answers += packet(0x62, struct.pack(">H", identifier))
            if not self.underway:
                # It is ours to say something.
                self.heard = time.monotonic()
            elif not heard:
                raise Gone(f"silent for {SILENCE} s")
            if answers:
                connection.send(answers)
