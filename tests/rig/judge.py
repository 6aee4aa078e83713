"""A load that goes on while the broker is ended again and again, and the judge of what became of it: nothing that was
acknowledged is missing, no message of QoS 2 comes twice, each publisher's order is kept, and what is retained is the last.

Whoever ends the broker tells where it listens by a function `port`, which waits until it does."""

import contextlib
import dataclasses
import math
import struct
import threading
import time

from sender import BACK_OFF, PATIENCE, Connection, Gone, Lost, Sender, open_connection, packet, text

KEPT = "kept/last"


class Taker:
    """A subscriber at QoS 2 whose session stays, and what it has got: payloads in order, resent ones told apart as its
    protocol tells them."""

    def __init__(self, port):
        self.port = port
        self.got = []
        # QoS 2 identifiers that were received and not released: what comes again under one is not news.
        self.pending = set()
        self.is_subscribed = False

    def serve(self, until):
        """Connects, again if need be, and takes what comes until `until()`."""
        while not until():
            connection = open_connection(self.port, "taker")
            if not connection:
                time.sleep(BACK_OFF)
                continue
            if not connection.is_present:
                if self.is_subscribed:
                    raise Lost("the subscriber's session is gone")
                self.pending.clear()
            try:
                if not self.is_subscribed:
                    connection.send(packet(0x82, struct.pack(">H", 1) + text("load/#") + b"\2"))
                while not until():
                    for kind, body in connection.packets(0.05):
                        self._take(connection, kind, body)
            except Gone:
                pass
            finally:
                connection.close()

    def _take(self, connection, kind, body):
        if kind >> 4 == 9:
            self.is_subscribed = True
        elif kind >> 4 == 3:
            qos = kind >> 1 & 3
            length = struct.unpack(">H", body[:2])[0]
            identifier = body[2 + length : 4 + length]
            name, number = body[4 + length :].decode().split()
            if qos == 1:
                self.got.append((1, name, int(number)))
                connection.send(packet(0x40, identifier))
            else:
                if identifier not in self.pending:
                    self.pending.add(identifier)
                    self.got.append((2, name, int(number)))
                connection.send(packet(0x50, identifier))
        elif kind >> 4 == 6:
            self.pending.discard(body[:2])
            connection.send(packet(0x70, body[:2]))


@dataclasses.dataclass
class Verdict:
    """What the judge has counted."""

    acknowledged: int
    delivered: int
    # At QoS 1, where that is allowed.
    twice: int
    # Of the messages that are retained, each in place of the one before, as many were acknowledged.
    retained: int
    connections: int

    def __str__(self):
        return (
            f"{self.connections} connections, {self.acknowledged} acknowledged, {self.delivered} delivered, "
            f"{self.twice} of them twice at QoS 1, none at QoS 2, 0 missing; {self.retained} retained one after the other"
        )


class Load:
    """Two publishers at QoS 1 and two at QoS 2 to a subscriber whose session stays, which is there for a while (`there`,
    seconds from and to) and away for a while; and one whose messages are retained. `count` messages each, or until `run`
    is told. No more than about `waiting_max` wait for the subscriber: beyond the limits of its queue a broker may drop
    what it has acknowledged."""

    def __init__(self, port, chance, *, count=math.inf, there=(0.2, 1.0), away=(0.0, 0.4), waiting_max=10_000):
        self.chance, self.there, self.away = chance, there, away

        def may_send():
            return sum(sender.next_number for sender in self.senders) - len(self.taker.got) < waiting_max

        self.senders = [
            Sender(f"p{at}", port, f"load/{at}", 1 + at % 2, count=count, may_send=may_send) for at in range(4)
        ]
        self.keeper = Sender("keeper", port, KEPT, 1, retain=True, window=1)
        self.taker = Taker(port)
        # While it is set the subscriber stays away.
        self.holds = threading.Event()
        self.failures = []

    def acknowledged(self):
        """So far."""
        return sum(sender.acknowledged for sender in self.senders)

    def subscribe(self):
        """The subscriber's session is there."""
        self.taker.serve(lambda: self.taker.is_subscribed)

    def run(self, is_over=lambda: False):
        """Returns when all messages are acknowledged; after `is_over()` there are no new ones."""
        threads = [threading.Thread(target=self._guarded, args=[sender.run]) for sender in self.senders]
        keeping = threading.Thread(target=self._guarded, args=[self.keeper.run])
        for thread in (*threads, keeping):
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                until = time.monotonic() + self.chance.uniform(*self.there)
                self.taker.serve(lambda: time.monotonic() >= until or self.holds.is_set())
                if is_over() or self.failures:
                    self._finish()
                away = self.chance.uniform(*self.away)
                for thread in threads:
                    thread.join(away / len(threads))
        finally:
            self._finish()
            for thread in (*threads, keeping):
                thread.join()
        if self.failures:
            raise self.failures[0]

    @contextlib.contextmanager
    def running(self):
        """Goes on during the block; after it, until everything is acknowledged."""
        is_over = threading.Event()

        thread = threading.Thread(target=self._guarded, args=[lambda: self.run(is_over.is_set)])
        thread.start()
        try:
            yield
        finally:
            self.holds.clear()
            is_over.set()
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _finish(self):
        for sender in (*self.senders, self.keeper):
            sender.finish()

    def _guarded(self, run):
        try:
            run()
        except Exception as failure:
            self.failures.append(failure)

    def check_retained(self, port):
        """What is retained at the broker on this port is no older than what has been acknowledged."""
        last = self.keeper.acknowledged - 1
        if last < 0:
            return
        kept = retained(port, KEPT)
        if kept is None or kept < last:
            raise Lost(f"retained is {kept}, and {last} was acknowledged")

    def judge(self, patience=PATIENCE):
        """Waits for what has not come yet, until nothing has come for so many seconds, and counts: the verdict."""
        wanted = {(s.qos, s.name, number) for s in self.senders for number in range(s.next_number)}
        got = self.taker.got
        seen, counted, last = set(), 0, time.monotonic()

        def is_all_here():
            nonlocal counted, last
            if len(got) > counted:
                seen.update(got[counted:])
                counted, last = len(got), time.monotonic()
            return wanted <= seen or time.monotonic() - last > patience

        self.taker.serve(is_all_here)
        missing = wanted - seen
        if missing:
            raise Lost(f"{len(missing)} of {len(wanted)} acknowledged messages are missing: {sorted(missing)[:5]}")
        for sender in self.senders:
            judge_order(sender, [number for _, name, number in got if name == sender.name])
        self.check_retained(self.taker.port())
        return Verdict(
            acknowledged=self.acknowledged(),
            delivered=len(seen),
            twice=len(got) - len(seen),
            retained=self.keeper.acknowledged,
            connections=sum(sender.connections for sender in self.senders),
        )


def judge_order(sender, numbers):
    """Of what has come from one publisher: at QoS 2 each once, and at both the first ones in order."""
    if sender.qos == 2 and len(numbers) != len(set(numbers)):
        extra = sorted(number for number in set(numbers) if numbers.count(number) > 1)
        raise Lost(f"{sender.name}: {len(numbers)} deliveries at QoS 2 of {sender.next_number} messages: {extra[:5]}")
    firsts = list(dict.fromkeys(numbers))
    if firsts != sorted(firsts):
        at = next(at for at in range(1, len(firsts)) if firsts[at] < firsts[at - 1])
        raise Lost(f"{sender.name}: out of order: {firsts[max(0, at - 3):at + 3]}")


def retained(port, topic):
    """The number of the message that is retained there; None: there is none."""
    connection = Connection(port, "looker", clean=True)
    try:
        connection.send(packet(0x82, struct.pack(">H", 1) + text(topic) + b"\0"))
        is_granted = False
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            # What is retained follows its SUBACK, and the answer to a ping would follow that.
            for kind, body in connection.packets(PATIENCE):
                if kind >> 4 == 9:
                    is_granted = True
                    connection.send(packet(0xC0, b""))
                elif kind >> 4 == 3:
                    return int(body[2 + struct.unpack(">H", body[:2])[0] :].decode().split()[1])
                elif kind >> 4 == 13 and is_granted:
                    return None
        raise Lost(f"no answer to a SUBSCRIBE of {topic}")
    finally:
        connection.close()
