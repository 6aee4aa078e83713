"""A subscriber at QoS 0 whose session does not stay, and which talks to itself: nothing of that needs a journal."""

import struct
import threading
import time

from sender import Connection, Gone, packet, text

# Only a failure waits this long.
PATIENCE = 60


class Watcher:
    """Hears these filters from construction on, in a thread of its own."""

    def __init__(self, port, *filters, name="watcher"):
        self.heard = []
        self.acknowledged = set()
        self.changed = threading.Condition()
        self.is_gone = False
        self.connection = Connection(port, name, clean=True)
        wanted = b"".join(text(word) + b"\0" for word in filters)
        self.connection.send(packet(0x82, struct.pack(">H", 1) + wanted))
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        self._wait(lambda: 1 in self.acknowledged, f"no SUBACK for {filters}")
        self.next_id = 1

    def close(self):
        self.connection.send(packet(0xE0, b""))
        self.thread.join()
        self.connection.close()

    def say(self, topic, payload, qos=0):
        """At QoS 1 it is acknowledged when this returns."""
        if not qos:
            self.connection.send(packet(0x30, text(topic) + payload.encode()))
            return
        self.next_id += 1
        number = self.next_id
        self.connection.send(packet(0x32, text(topic) + struct.pack(">H", number) + payload.encode()))
        self._wait(lambda: number in self.acknowledged, f"{topic} is not acknowledged")

    def mark(self):
        """A place in what was heard, for `since`."""
        with self.changed:
            return len(self.heard)

    def last_of(self, *topics):
        """That of these topics of which a message came last; None: none came."""
        with self.changed:
            return next((topic for topic, _ in reversed(self.heard) if topic in topics), None)

    def wait_for(self, topic, payload=None, since=0):
        """The first payload on that topic."""

        def first():
            return next((p for t, p in self.heard[since:] if t == topic and payload in (None, p)), None)

        self._wait(lambda: first() is not None, lambda: f"no {topic}, but {self.heard[since:][-5:]}")
        return first()

    def echo(self, topic, count):
        """That many messages to itself, one after the other: the longest of them in seconds."""
        longest = 0.0
        for number in range(count):
            started = time.monotonic()
            since = self.mark()
            self.say(topic, f"{number}")
            self.wait_for(topic, f"{number}", since)
            longest = max(longest, time.monotonic() - started)
        return longest

    def _wait(self, condition, otherwise):
        with self.changed:
            if self.changed.wait_for(lambda: condition() or self.is_gone, PATIENCE) and condition():
                return
        why = otherwise() if callable(otherwise) else otherwise
        raise AssertionError(f"{why}{' (disconnected)' if self.is_gone else ''}")

    def _listen(self):
        try:
            while True:
                for kind, body in self.connection.packets(1):
                    with self.changed:
                        self._take(kind >> 4, body)
                        self.changed.notify_all()
        except Gone:
            with self.changed:
                self.is_gone = True
                self.changed.notify_all()

    def _take(self, kind, body):
        if kind == 3:
            length = struct.unpack(">H", body[:2])[0]
            self.heard.append((body[2 : 2 + length].decode(), body[2 + length :].decode(errors="replace")))
        elif kind in (4, 9):
            self.acknowledged.add(struct.unpack(">H", body[:2])[0])
