"""Plays a sequence at one broker over real sockets, and says what each client got back in each step.

Nothing waits for time to pass. After a step every client that is connected asks for a PINGRESP, first the one that did
something, and again and again until a whole round brought nothing else: a broker answers in order, so that by then
everything has come that was to come.
"""

import socket

import packets
from packets import CONNACK, DISCONNECT, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL

# Only a failure waits this long.
PATIENCE = 20

# What a property means that is not there: a broker that writes it says nothing else.
DEFAULTS = {
    "wildcard_available": 1,
    "subscription_ids_available": 1,
    "shared_available": 1,
    "retain_available": 1,
    "maximum_qos": 2,
    "topic_alias_maximum": 0,
    "receive_maximum": 65535,
    "payload_format": 0,
}
# Messages that a client has not acknowledged, of one that names no Receive Maximum: what both brokers keep to.
WINDOW = 20
# Time that may pass while a sequence plays, for intervals that are counted down.
SECONDS_MAX = 60


class Silence(AssertionError):
    """A broker neither answered nor closed."""


class Stage:
    """A broker, and the clients of one sequence. `prefix`: what all its names begin with."""

    def __init__(self, address, prefix, trace=None):
        self.address, self.prefix, self.trace = address, prefix, trace
        self.clients, self.connections, self.remarks = {}, [], []
        # Connections that did not take everything at once in the step.
        self.choosy = set()

    def remark(self, words):
        """Something about the step that only who plays it knows."""
        self.remarks.append(words)

    def play(self, step):
        """Lines of what came, by connection."""
        self.remarks, before = [], self._choosy()
        step.play(self)
        self._settle(step.client)
        self.choosy = before | self._choosy()
        heard = {connection.name: connection.take_lines() for connection in self.connections}
        self.connections = [connection for connection in self.connections if connection.is_open]
        return {name: lines for name, lines in heard.items() if lines}

    def open(self, client, version, **limits):
        """A connection without a CONNECT yet."""
        client = self.clients.setdefault(client, Client(client))
        connection = Connection(self, client, version, **limits)
        self.connections.append(connection)
        return connection

    def of(self, client):
        """Its connection, if there is one: the last that is open."""
        return next((it for it in reversed(self.connections) if it.client.name == client and it.is_open), None)

    def _choosy(self):
        return {it.name for it in self.connections if it.is_choosy()}

    def close(self):
        for connection in self.connections:
            connection.socket.close()

    def _settle(self, client):
        """Whoever did something comes first: what it did has been taken in when the others ask."""
        connections = sorted(self.connections, key=lambda connection: connection.client.name != client)
        while any([connection.settle() for connection in connections if connection.is_open]):
            pass


class Client:
    """What outlives a connection: the messages that the broker's packet identifiers stand for."""

    def __init__(self, name):
        self.name, self.connections, self.messages = name, 0, {}


class Connection:
    """`hold`: the answers that wait for `release`, such as PUBACK."""

    def __init__(
        self,
        stage,
        client,
        version,
        *,
        hold=(),
        receive_maximum=65535,
        maximum_packet_size=None,
        alias_maximum=0,
        will=None,
        is_nameless=False,
    ):
        client.connections += 1
        self.name = f"{client.name}.{client.connections}"
        self.stage, self.client, self.version, self.hold = stage, client, version, set(hold)
        self.receive_maximum, self.maximum_packet_size = receive_maximum, maximum_packet_size
        self.alias_maximum, self.aliases, self.will = alias_maximum, {}, will
        self.socket = socket.create_connection(stage.address, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_open, self.is_ending, self.is_welcome = True, False, False
        self.partial, self.lines, self.held, self.unacknowledged, self.foreign = b"", [], [], set(), set()
        # One that has no client identifier of its own is a session of its own too.
        self.messages = {} if is_nameless else client.messages
        # What is to be read before anything else can be sent: a CONNACK.
        self.awaits_connack = False

    def send(self, data, note=""):
        if self.stage.trace and data != packets.PING:
            self.stage.trace(f"      {self.name} -> {data.hex()} {note}")
        try:
            self.socket.sendall(data)
        except OSError:
            # It has closed; what it said before is there to be read.
            self.is_ending = True

    def end_writing(self):
        """As a client does that is cut off."""
        self.socket.shutdown(socket.SHUT_WR)
        self.is_ending = True

    def is_choosy(self):
        """Whether it does not take everything at once."""
        return self.receive_maximum < WINDOW or self.maximum_packet_size or len(self.unacknowledged) >= WINDOW

    def release(self):
        """Sends the answers that were held back."""
        for data, note in self.held:
            self.send(data, note)
        self.acknowledge(self.held)
        self.held.clear()

    def acknowledge(self, answers):
        for data, _ in answers:
            if data[0] >> 4 in (PUBACK, PUBCOMP) or (data[0] >> 4 == PUBREC and len(data) > 4 and data[4] >= 0x80):
                self.unacknowledged.discard(int.from_bytes(data[2:4], "big"))

    def take_lines(self):
        lines, self.lines = self.lines, []
        return lines

    def settle(self):
        """Reads until a PINGRESP, or to the end of a connection that ends. Whether anything else came."""
        anything = False
        if not (self.is_ending or self.awaits_connack):
            self.send(packets.PING)
        while self.is_open:
            got = self._next()
            if got is None:
                self.is_open = False
                self.socket.close()
                self._note("closed")
                if self.will == "delayed":
                    self.stage.remark("a will has a delay")
            elif got.kind == PINGRESP:
                break
            else:
                anything = True
                self._handle(got)
                if got.kind == CONNACK and not self.is_ending:
                    break
        return anything or not self.is_open

    def _next(self):
        while True:
            whole, self.partial = packets.split(self.partial)
            if whole:
                return self._parse(*whole)
            try:
                came = self.socket.recv(65536)
            except TimeoutError:
                raise Silence(f"{self.name}: nothing came for {PATIENCE} s after {self.lines}") from None
            except OSError:
                came = b""
            if not came:
                if self.partial:
                    self._note(f"! ends within a packet: {self.partial.hex()}")
                return None
            if self.stage.trace and came != b"\xd0\x00":
                self.stage.trace(f"      {self.name} <- {came.hex()}")
            self.partial += came

    def _parse(self, first, body):
        if first >> 4 == CONNACK and not self.is_welcome:
            # A client that spoke of a version that does not exist may be answered in the words of another.
            return packets.parse(4 if len(body) == 2 else 5, first, body)
        try:
            return packets.parse(self.version, first, body)
        except packets.Malformed as error:
            self._note(f"! malformed: {error}")
            return None

    def _note(self, line):
        self.lines.append(line)
        if self.stage.trace:
            self.stage.trace(f"         {self.name} got {line}")

    def _handle(self, got):
        if not self.is_welcome and got.kind not in (CONNACK, DISCONNECT, packets.AUTH):
            self._note(f"! {packets.NAMES[got.kind]} before CONNACK")
        if got.kind == CONNACK:
            self.awaits_connack = False
            self.is_welcome = not got.reasons[0]
            self.is_ending |= not self.is_welcome
        if got.kind == DISCONNECT:
            self.is_ending = True
        if got.kind == PUBLISH:
            self._handle_publish(got)
        elif got.kind == PUBREL and got.packet_id in self.foreign:
            self.foreign.discard(got.packet_id)
            self._answer(PUBCOMP, got.packet_id, may_hold=False)
        elif got.kind == PUBREL:
            self._note(f"PUBREL of {self.messages.get(got.packet_id, '! no message')}{codes(got)}")
            self._answer(PUBCOMP, got.packet_id)
        else:
            self._note(shown(got))
            if got.kind == PUBREC and got.reasons[0] < 0x80:
                self._answer(PUBREL, got.packet_id)

    def _handle_publish(self, got):
        alias = got.value("topic_alias")
        if alias is not None:
            if not 0 < alias <= self.alias_maximum:
                self._note(f"! topic alias {alias}")
            if got.topic:
                self.aliases[alias] = got.topic
            got.topic = self.aliases.get(alias, "! unknown alias")
            got.properties = tuple(pair for pair in got.properties if pair[0] != "topic_alias")
        elif not got.topic:
            self._note("! neither topic nor alias")
        if self.stage.prefix not in got.topic:
            # A broker's own, or left over from another sequence.
            if got.qos:
                self.foreign.add(got.packet_id)
                self._answer(PUBACK if got.qos == 1 else PUBREC, got.packet_id, may_hold=False)
            return
        self._note(shown(got))
        if got.qos:
            self.unacknowledged.add(got.packet_id)
            if len(self.unacknowledged) > self.receive_maximum:
                self._note("! more than the Receive Maximum")
            self.messages[got.packet_id] = f"{got.topic} {got.payload.decode(errors='replace')}"
            self._answer(PUBACK if got.qos == 1 else PUBREC, got.packet_id)

    def _answer(self, kind, packet_id, may_hold=True):
        name = packets.NAMES[kind]
        answer = packets.ack(self.version, kind, packet_id), name
        if may_hold and name in self.hold:
            self.held.append(answer)
        else:
            self.send(*answer)
            self.acknowledge([answer])


def shown(got):
    """A packet as a line, without what brokers choose as they like: names that they make, words for people."""
    line = packets.NAMES[got.kind]
    if got.kind == CONNACK:
        line += f" present={int(got.session_present)}"
    if got.kind == PUBLISH:
        flags = "".join(name for bit, name in ((8, " dup"), (1, " retain")) if got.flags & bit)
        line += f" {got.topic} {got.payload.decode(errors='replace')!r} q{got.qos}{flags}"
    elif got.kind in (PUBACK, PUBREC, PUBCOMP, packets.SUBACK, packets.UNSUBACK):
        line += f" {got.packet_id}"
    return line + codes(got)


def codes(got):
    reasons = "".join(f" {reason:#04x}" for reason in got.reasons)
    shown_properties = []
    for name, value in got.properties:
        if name in ("reason_string", "user_property") and got.kind != PUBLISH:
            continue
        if DEFAULTS.get(name) == value:
            continue
        if name == "assigned_client_id":
            value = "…"
        if name == "message_expiry":
            # Counted down from one of the generator's, which are multiples of a thousand.
            counted = -value % 1000
            value = value + counted if counted <= SECONDS_MAX else value
        shown_properties.append(f"{name}={value!r}")
    # The order of user properties is kept by a broker [MQTT-3.3.2-18]; that of others says nothing.
    shown_properties.sort(key=lambda item: item.split("=")[0])
    return reasons + "".join(f" {item}" for item in shown_properties)
