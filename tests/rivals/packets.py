"""MQTT packets as bytes, for clients of 3.1.1 and 5.0: a writer that writes whatever it is told, and a reader of what a
broker sends, which takes nothing that the specification does not allow. Written from the specification alone."""

import dataclasses

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = range(1, 12)
PINGREQ, PINGRESP, DISCONNECT, AUTH = range(12, 16)

NAMES = (
    "RESERVED CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP"
    " DISCONNECT AUTH"
).split()

# 2.2.2.2: identifier, and the type of the value.
PROPERTIES = {
    "payload_format": (0x01, "byte"),
    "message_expiry": (0x02, "four"),
    "content_type": (0x03, "text"),
    "response_topic": (0x08, "text"),
    "correlation_data": (0x09, "binary"),
    "subscription_id": (0x0B, "variable"),
    "session_expiry": (0x11, "four"),
    "assigned_client_id": (0x12, "text"),
    "server_keep_alive": (0x13, "two"),
    "authentication_method": (0x15, "text"),
    "authentication_data": (0x16, "binary"),
    "request_problem_information": (0x17, "byte"),
    "will_delay": (0x18, "four"),
    "request_response_information": (0x19, "byte"),
    "response_information": (0x1A, "text"),
    "server_reference": (0x1C, "text"),
    "reason_string": (0x1F, "text"),
    "receive_maximum": (0x21, "two"),
    "topic_alias_maximum": (0x22, "two"),
    "topic_alias": (0x23, "two"),
    "maximum_qos": (0x24, "byte"),
    "retain_available": (0x25, "byte"),
    "user_property": (0x26, "pair"),
    "maximum_packet_size": (0x27, "four"),
    "wildcard_available": (0x28, "byte"),
    "subscription_ids_available": (0x29, "byte"),
    "shared_available": (0x2A, "byte"),
}
BY_IDENTIFIER = {identifier: (name, kind) for name, (identifier, kind) in PROPERTIES.items()}

# What a server may put where (2.2.2.2).
ALLOWED = {
    CONNACK: {
        *("session_expiry", "assigned_client_id", "server_keep_alive", "authentication_method", "authentication_data"),
        *("response_information", "server_reference", "reason_string", "receive_maximum", "topic_alias_maximum"),
        *("maximum_qos", "retain_available", "user_property", "maximum_packet_size", "wildcard_available"),
        *("subscription_ids_available", "shared_available"),
    },
    PUBLISH: {
        *("payload_format", "message_expiry", "content_type", "response_topic", "correlation_data", "subscription_id"),
        *("topic_alias", "user_property"),
    },
    DISCONNECT: {"server_reference", "reason_string", "user_property"},
    AUTH: {"authentication_method", "authentication_data", "reason_string", "user_property"},
}
REASONS_ONLY = {"reason_string", "user_property"}


class Malformed(Exception):
    """What the broker sent is no packet that a server may send."""


# Writing.


def two(value):
    return value.to_bytes(2, "big")


def four(value):
    return value.to_bytes(4, "big")


def variable(value):
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def binary(value):
    return two(len(value)) + value


def text(value):
    """Bytes stand for themselves, so that they can be wrong."""
    return binary(value if isinstance(value, bytes) else value.encode())


def property_bytes(name, value):
    identifier, kind = PROPERTIES[name]
    if kind == "pair":
        body = text(value[0]) + text(value[1])
    else:
        write = {"byte": lambda v: bytes([v]), "two": two, "four": four, "variable": variable, "text": text, "binary": binary}
        body = write[kind](value)
    return variable(identifier) + body


def section(properties):
    """The properties with their length: pairs of name and value, or bytes that stand for themselves."""
    body = b"".join(item if isinstance(item, bytes) else property_bytes(*item) for item in properties)
    return variable(len(body)) + body


def packet(kind, body, flags=None):
    if flags is None:
        flags = 2 if kind in (PUBREL, SUBSCRIBE, UNSUBSCRIBE) else 0
    return bytes([kind << 4 | flags]) + variable(len(body)) + body


def connect(
    version,
    client_id,
    *,
    clean=True,
    keep_alive=600,
    will=None,
    username=None,
    password=None,
    properties=(),
    flags=0,
    level=None,
    name=None,
):
    """`will`: topic, payload, qos, retain and properties. `flags` are flipped."""
    bits = (0x02 if clean else 0) | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    body = b""
    if will:
        topic, payload, qos, retain, will_properties = will
        bits |= 0x04 | qos << 3 | (0x20 if retain else 0)
        body += (section(will_properties) if version == 5 else b"") + text(topic) + binary(payload)
    if username is not None:
        body += text(username)
    if password is not None:
        body += binary(password)
    head = text(name or "MQTT") + bytes([level or version, bits ^ flags]) + two(keep_alive)
    return packet(CONNECT, head + (section(properties) if version == 5 else b"") + text(client_id) + body)


def publish(version, topic, payload, *, qos=0, retain=False, dup=False, packet_id=None, properties=()):
    body = text(topic) + (b"" if packet_id is None else two(packet_id))
    body += (section(properties) if version == 5 else b"") + payload
    return packet(PUBLISH, body, (8 if dup else 0) | qos << 1 | (1 if retain else 0))


def ack(version, kind, packet_id, reason=0, properties=()):
    """The shortest form that says it (3.4.2.1)."""
    body = two(packet_id)
    if version == 5 and (reason or properties):
        body += bytes([reason]) + (section(properties) if properties else b"")
    return packet(kind, body)


def subscribe(version, packet_id, filters, properties=()):
    """`filters`: pairs of filter and options."""
    body = two(packet_id) + (section(properties) if version == 5 else b"")
    return packet(SUBSCRIBE, body + b"".join(text(topic_filter) + bytes([options]) for topic_filter, options in filters))


def unsubscribe(version, packet_id, filters, properties=()):
    body = two(packet_id) + (section(properties) if version == 5 else b"")
    return packet(UNSUBSCRIBE, body + b"".join(map(text, filters)))


def disconnect(version, reason=0, properties=()):
    if version == 5 and (reason or properties):
        return packet(DISCONNECT, bytes([reason]) + (section(properties) if properties else b""))
    return packet(DISCONNECT, b"")


PING = packet(PINGREQ, b"")


# Reading.


@dataclasses.dataclass
class Received:
    """A packet of the broker."""

    kind: int
    flags: int = 0
    packet_id: int | None = None
    reasons: tuple = ()
    session_present: bool = False
    topic: str = ""
    payload: bytes = b""
    properties: tuple = ()

    @property
    def qos(self):
        return self.flags >> 1 & 3

    def value(self, name, otherwise=None):
        return next((value for have, value in self.properties if have == name), otherwise)


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise Malformed(f"{count} more bytes in {self.data.hex()} at {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def left(self):
        return len(self.data) - self.at

    def number(self, count):
        return int.from_bytes(self.take(count), "big")

    def variable(self):
        value = 0
        for place in range(4):
            digit = self.number(1)
            value |= (digit & 0x7F) << 7 * place
            if digit < 0x80:
                if place and not digit:
                    raise Malformed("a variable byte integer longer than it needs to be")
                return value
        raise Malformed("a variable byte integer of five bytes")

    def binary(self):
        return self.take(self.number(2))

    def text(self):
        try:
            value = self.binary().decode()
        except UnicodeDecodeError as error:
            raise Malformed(str(error)) from None
        if "\0" in value:
            raise Malformed("U+0000 in text")
        return value

    def properties(self, allowed):
        inner = Cursor(self.take(self.variable()))
        found = []
        while inner.left():
            identifier = inner.variable()
            if identifier not in BY_IDENTIFIER:
                raise Malformed(f"property {identifier:#04x}")
            name, kind = BY_IDENTIFIER[identifier]
            if name not in allowed:
                raise Malformed(f"{name} does not belong there")
            if name not in ("user_property", "subscription_id") and any(name == have for have, _ in found):
                raise Malformed(f"{name} twice")
            read = {
                "byte": lambda: inner.number(1),
                "two": lambda: inner.number(2),
                "four": lambda: inner.number(4),
                "variable": inner.variable,
                "text": inner.text,
                "binary": inner.binary,
                "pair": lambda: (inner.text(), inner.text()),
            }
            found.append((name, read[kind]()))
        return tuple(found)


def split(data):
    """The first packet of `data` and what follows it, or None and all of it if it is not complete."""
    length, shift = 0, 0
    for index in range(1, 5):
        if index >= len(data):
            return None, data
        length |= (data[index] & 0x7F) << shift
        shift += 7
        if data[index] < 0x80:
            end = index + 1 + length
            return (None, data) if end > len(data) else ((data[0], data[index + 1 : end]), data[end:])
    raise Malformed("a Remaining Length of five bytes")


def parse(version, first, body):
    """A packet that a server sends, or Malformed."""
    kind, flags = first >> 4, first & 15
    cursor, got = Cursor(body), Received(kind, flags)
    if kind != PUBLISH and flags != (2 if kind == PUBREL else 0):
        raise Malformed(f"{NAMES[kind]} with flags {flags}")
    if kind == CONNACK:
        acknowledge = cursor.number(1)
        if acknowledge > 1:
            raise Malformed(f"acknowledge flags {acknowledge}")
        got.session_present, got.reasons = bool(acknowledge), (cursor.number(1),)
        if version == 5:
            got.properties = cursor.properties(ALLOWED[kind])
        elif got.reasons[0] > 5:
            raise Malformed(f"return code {got.reasons[0]}")
        if got.reasons[0] and acknowledge:
            raise Malformed("a session is present that is refused")
    elif kind == PUBLISH:
        got.topic = cursor.text()
        if any(wildcard in got.topic for wildcard in "+#"):
            raise Malformed(f"a wildcard in topic {got.topic}")
        if got.qos == 3 or (flags & 8 and not got.qos):
            raise Malformed(f"PUBLISH with flags {flags}")
        if got.qos:
            got.packet_id = cursor.number(2)
        if version == 5:
            got.properties = cursor.properties(ALLOWED[kind])
        elif not got.topic:
            raise Malformed("no topic")
        got.payload = cursor.take(cursor.left())
    elif kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        got.packet_id, got.reasons = cursor.number(2), (0,)
        if version == 5 and cursor.left():
            got.reasons = (cursor.number(1),)
            if cursor.left():
                got.properties = cursor.properties(REASONS_ONLY)
    elif kind in (SUBACK, UNSUBACK):
        got.packet_id = cursor.number(2)
        if version == 5:
            got.properties = cursor.properties(REASONS_ONLY)
        got.reasons = tuple(cursor.take(cursor.left()))
        if not got.reasons and (version == 5 or kind == SUBACK):
            raise Malformed("no reason code")
        if version != 5 and kind == UNSUBACK and got.reasons:
            raise Malformed("reason codes in 3.1.1")
    elif kind == DISCONNECT and version == 5:
        got.reasons = (0,)
        if cursor.left():
            got.reasons = (cursor.number(1),)
            if cursor.left():
                got.properties = cursor.properties(ALLOWED[kind])
    elif kind == AUTH and version == 5:
        got.reasons = (cursor.number(1),)
        got.properties = cursor.properties(ALLOWED[kind])
    elif kind != PINGRESP:
        raise Malformed(f"{NAMES[kind]} from a server")
    if got.packet_id == 0:
        raise Malformed(f"{NAMES[kind]} with packet identifier 0")
    if cursor.left():
        raise Malformed(f"{cursor.left()} bytes too many in {NAMES[kind]}")
    return got
