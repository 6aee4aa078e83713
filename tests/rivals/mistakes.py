"""Packets with a mistake in them: those that the specification names, and any packet with one thing changed.

All are complete, as their Remaining Length says, so that a broker has no reason to wait for more.
"""

import packets
from packets import CONNECT, DISCONNECT, PINGREQ, PUBACK, PUBCOMP, PUBREC, PUBREL, SUBSCRIBE, UNSUBSCRIBE
from packets import section, text, two

# A first packet takes a connection of its own.
FIRST = 0.3


def draw(sequence, client):
    """What it is, its bytes, and for one that comes first on a new connection, what is known of that."""
    rng = sequence.rng
    is_first = rng.random() < FIRST
    version = sequence.versions[client]
    if rng.random() < 0.5:
        named = CONNECTS if is_first else LATER
        name = rng.choice([name for name, (versions, _) in named.items() if version in versions])
        data = named[name][1](sequence, client, version)
        return f"mistake: {name} v{version}", data, {} if is_first else None
    return changed(sequence, client, is_first)


def changed(sequence, client, is_first):
    """A right packet, and one thing in it is different."""
    rng = sequence.rng
    if is_first:
        step = sequence.connect(client)
    else:
        makers = (sequence.publishing, sequence.subscribing, sequence.unsubscribing, sequence.unusual_ack, sequence.leaving)
        step = rng.choice(makers)(client)
    data = step.data or packets.PING
    # What it says of aliases may be what is changed.
    known = {"will": step.limits.get("will"), "alias_maximum": 65535} if is_first else None
    # The first of several.
    (first, body), _ = packets.split(data)
    body = bytearray(body)
    how = rng.choice(("flags", "type", "byte", "bit", "cut", "gone", "more", "length"))
    if how == "flags":
        flipped = rng.randint(1, 15)
        first ^= flipped
        how = f"flags ^ {flipped:#x}"
    elif how == "type":
        kind = rng.choice([kind for kind in range(16) if kind != first >> 4])
        first = kind << 4 | first & 15
        how = f"type {packets.NAMES[kind]}"
    elif how == "length":
        return f"changed: {step.what}: Remaining Length of five bytes", bytes([first]) + b"\x80\x80\x80\x80\x01", known
    elif not body or how == "more":
        extra = bytes(rng.choice((0, 0, 1, 0x26, 0xFF)) for _ in range(rng.choice((1, 2, 5))))
        body += extra
        how = f"{extra.hex()} at the end"
    else:
        at = rng.randrange(len(body))
        if how == "byte":
            body[at] = rng.choice((0, 1, 0x23, 0x2B, 0x7F, 0x80, 0xC0, 0xFF))
            how = f"byte {at} is {body[at]:#04x}"
        elif how == "bit":
            body[at] ^= 1 << rng.randrange(8)
            how = f"byte {at} is {body[at]:#04x}"
        elif how == "cut":
            del body[at:]
            how = f"only {at} bytes"
        else:
            del body[at]
            how = f"byte {at} is gone"
    changed_packet = packets.packet(first >> 4, bytes(body), first & 15)
    if changed_packet == packets.PING:
        # A right one, and the answer to it would be taken for the end of the step.
        return changed(sequence, client, is_first)
    return f"changed: {step.what}: {how}", changed_packet, known


def connects(**how):
    return lambda s, client, version: packets.connect(version, s.client_id(client), **how)


def publishes(suffix="/a", **how):
    """With the bytes `topic` instead of a topic of the sequence, or with `suffix` at its end."""
    topic = how.pop("topic", None)
    return lambda s, client, version: packets.publish(
        version, s.prefix.encode() + suffix.encode() if topic is None else topic, b"wrong", **how
    )


def subscribes(suffix, options=0, **how):
    return lambda s, client, version: packets.subscribe(
        version,
        900,
        [((how.get("before", "") + s.prefix + suffix).encode() + how.get("after", b""), options)],
        how.get("properties", ()),
    )


def acks(kind, *tail):
    return lambda s, client, version: packets.packet(kind, two(1) + bytes(tail))


def raw(kind, body, flags=None):
    return lambda s, client, version: packets.packet(kind, body, flags)


V4, V5, BOTH = (4,), (5,), (4, 5)
# An overlong form of "/", a surrogate, U+0000.
BAD_TEXTS = {"overlong": b"a\xc0\xafb", "surrogate": b"a\xed\xa0\x80b", "NUL": b"a\x00b", "cut short": b"a\xe2\x82"}
FOUR_ZEROS = bytes(4)

CONNECTS = {
    "the reserved connect flag": (BOTH, connects(flags=0x01)),
    "will QoS 3": (BOTH, connects(will=("w", b"w", 3, False, ()))),
    "will QoS without will": (BOTH, connects(flags=0x08)),
    "will retain without will": (BOTH, connects(flags=0x20)),
    "will flag without will": (BOTH, connects(flags=0x04)),
    "user name flag without user name": (BOTH, connects(flags=0x80)),
    "password without user name": (BOTH, connects(password=b"secret")),
    "protocol level 6": (BOTH, connects(level=6)),
    "protocol level 2": (BOTH, connects(level=2)),
    "protocol name MQTX": (BOTH, connects(name="MQTX")),
    "protocol name of 3.1": (BOTH, connects(name="MQIsdp")),
    "no client identifier without clean session": (V4, lambda s, c, v: packets.connect(v, "", clean=False)),
    "will topic with a wildcard": (BOTH, connects(will=("w/#", b"w", 0, False, ()))),
    "will topic empty": (BOTH, connects(will=("", b"w", 0, False, ()))),
    "PUBLISH first": (BOTH, publishes()),
    "SUBSCRIBE first": (BOTH, subscribes("/a")),
    "PINGREQ first": (BOTH, raw(PINGREQ, b"")),
    "DISCONNECT first": (BOTH, raw(DISCONNECT, b"")),
    "no bytes": (BOTH, raw(CONNECT, b"")),
    "Receive Maximum 0": (V5, connects(properties=[("receive_maximum", 0)])),
    "Maximum Packet Size 0": (V5, connects(properties=[("maximum_packet_size", 0)])),
    "Request Problem Information 2": (V5, connects(properties=[("request_problem_information", 2)])),
    "Request Response Information 2": (V5, connects(properties=[("request_response_information", 2)])),
    "Session Expiry Interval twice": (V5, connects(properties=[("session_expiry", 0)] * 2)),
    "Topic Alias Maximum twice": (V5, connects(properties=[("topic_alias_maximum", 0)] * 2)),
    "a property of PUBLISH in CONNECT": (V5, connects(properties=[("content_type", "x")])),
    "an unknown property in CONNECT": (V5, connects(properties=[b"\x7f\x00"])),
    "authentication data without a method": (V5, connects(properties=[("authentication_data", b"x")])),
    "an authentication method that nobody knows": (V5, connects(properties=[("authentication_method", "nonsense")])),
    "will payload format 2": (V5, connects(will=("w", b"w", 0, False, [("payload_format", 2)]))),
    "will delay twice": (V5, connects(will=("w", b"w", 0, False, [("will_delay", 0)] * 2))),
    "a property of CONNECT in the will": (V5, connects(will=("w", b"w", 0, False, [("receive_maximum", 5)]))),
} | {
    f"client identifier {name}": (BOTH, lambda s, c, v, wrong=wrong: packets.connect(v, s.prefix.encode() + wrong))
    for name, wrong in BAD_TEXTS.items()
}

LATER = {
    "a second CONNECT": (BOTH, connects()),
    # Of a topic that is not looked at, for what others get of it.
    "more than the Receive Maximum": (
        V5,
        lambda s, c, v: b"".join(packets.publish(v, "beyond", b"x", qos=2, packet_id=id) for id in range(900, 921)),
    ),
    "QoS 3": (BOTH, publishes(qos=3, packet_id=900)),
    "DUP with QoS 0": (BOTH, publishes(dup=True)),
    "PUBLISH with packet identifier 0": (BOTH, publishes(qos=1, packet_id=0)),
    "topic with +": (BOTH, publishes("/+/a")),
    "topic with #": (BOTH, publishes("/#", qos=1, packet_id=901)),
    "topic empty": (BOTH, publishes(topic=b"")),
    "topic alias 0": (V5, publishes(properties=[("topic_alias", 0)])),
    "topic alias above the maximum": (V5, publishes(properties=[("topic_alias", 11)])),
    "topic alias unknown": (V5, publishes(topic=b"", properties=[("topic_alias", 9)])),
    "topic alias twice": (V5, publishes(properties=[("topic_alias", 1)] * 2)),
    "payload format 2": (V5, publishes(properties=[("payload_format", 2)])),
    "payload format twice": (V5, publishes(properties=[("payload_format", 1)] * 2)),
    "message expiry twice": (V5, publishes(properties=[("message_expiry", 1000)] * 2)),
    "content type twice": (V5, publishes(properties=[("content_type", "x")] * 2)),
    "response topic with a wildcard": (V5, publishes(properties=[("response_topic", "a/#")])),
    "response topic twice": (V5, publishes(properties=[("response_topic", "a")] * 2)),
    "subscription identifier from a client": (V5, publishes(properties=[("subscription_id", 1)])),
    "a property of CONNECT in PUBLISH": (V5, publishes(properties=[("session_expiry", 1)])),
    "an unknown property in PUBLISH": (V5, publishes(properties=[b"\x7f\x00"])),
    "SUBSCRIBE without a filter": (BOTH, lambda s, c, v: packets.subscribe(v, 900, [])),
    "SUBSCRIBE with packet identifier 0": (BOTH, lambda s, c, v: packets.subscribe(v, 0, [(s.prefix, 0)])),
    "SUBSCRIBE with flags 0": (BOTH, raw(SUBSCRIBE, two(1) + text("a") + b"\x00", 0)),
    "filter empty": (BOTH, lambda s, c, v: packets.subscribe(v, 900, [("", 0)])),
    "filter with # before the end": (BOTH, subscribes("/#/a")),
    "filter with a# level": (BOTH, subscribes("/a#")),
    "filter with a+ level": (BOTH, subscribes("/a+/b")),
    "a filter that is right and one that is wrong": (
        BOTH,
        lambda s, c, v: packets.subscribe(v, 900, [(f"{s.prefix}/a", 1), (f"{s.prefix}/a#", 1)]),
    ),
    "subscription QoS 3": (BOTH, subscribes("/a", 3)),
    "reserved subscription bits": (BOTH, subscribes("/a", 0xC1)),
    "options of 5.0 in 3.1.1": (V4, subscribes("/a", 0x0C)),
    "retain handling 3": (V5, subscribes("/a", 0x31)),
    "subscription identifier 0": (V5, subscribes("/a", properties=[("subscription_id", 0)])),
    "subscription identifier twice": (V5, subscribes("/a", properties=[("subscription_id", 1)] * 2)),
    "no local on a shared subscription": (V5, subscribes("/a", 4, before="$share/g/")),
    "shared subscription without a group": (V5, subscribes("/a", before="$share//")),
    "shared subscription with a wildcard in its group": (V5, subscribes("/a", before="$share/g+/")),
    "shared subscription without a filter": (V5, lambda s, c, v: packets.subscribe(v, 900, [("$share/g/", 0)])),
    "shared subscription that ends after its group": (V5, lambda s, c, v: packets.subscribe(v, 900, [("$share/g", 0)])),
    "UNSUBSCRIBE without a filter": (BOTH, lambda s, c, v: packets.unsubscribe(v, 900, [])),
    "UNSUBSCRIBE with packet identifier 0": (BOTH, lambda s, c, v: packets.unsubscribe(v, 0, [s.prefix])),
    "UNSUBSCRIBE with flags 0": (BOTH, raw(UNSUBSCRIBE, two(1) + text("a"), 0)),
    "UNSUBSCRIBE of a wrong filter": (BOTH, lambda s, c, v: packets.unsubscribe(v, 900, [f"{s.prefix}/#/a"])),
    "PUBACK with an unknown reason": (V5, acks(PUBACK, 0x42, 0)),
    "PUBREC with an unknown reason": (V5, acks(PUBREC, 0x42, 0)),
    "PUBREL with an unknown reason": (V5, acks(PUBREL, 0x42, 0)),
    "PUBREL with flags 0": (BOTH, raw(PUBREL, two(1), 0)),
    "PUBACK with flags 1": (BOTH, raw(PUBACK, two(1), 1)),
    "PUBACK with packet identifier 0": (BOTH, raw(PUBACK, two(0))),
    "PUBREL with packet identifier 0": (BOTH, raw(PUBREL, two(0))),
    "PUBCOMP of one byte": (BOTH, raw(PUBCOMP, b"\x01")),
    "PUBACK of a QoS 1 client with a property twice": (
        V5,
        raw(PUBACK, two(1) + b"\x00" + section([("reason_string", "x")] * 2)),
    ),
    "DISCONNECT with flags 1": (BOTH, raw(DISCONNECT, b"", 1)),
    "DISCONNECT with a body": (V4, raw(DISCONNECT, FOUR_ZEROS)),
    "DISCONNECT with an unknown reason": (V5, raw(DISCONNECT, b"\x42\x00")),
    "DISCONNECT with a reason of servers": (V5, raw(DISCONNECT, b"\x8b\x00")),
    "DISCONNECT with Session Taken Over": (V5, raw(DISCONNECT, b"\x8e\x00")),
    "DISCONNECT that makes a session last": (V5, raw(DISCONNECT, b"\x00" + section([("session_expiry", 77)]))),
    "DISCONNECT with Server Reference": (V5, raw(DISCONNECT, b"\x00" + section([("server_reference", "x")]))),
    "PINGREQ with a body": (BOTH, raw(PINGREQ, FOUR_ZEROS)),
    "PINGREQ with flags 1": (BOTH, raw(PINGREQ, b"", 1)),
    "CONNACK from a client": (BOTH, raw(packets.CONNACK, b"\x00\x00")),
    "SUBACK from a client": (BOTH, raw(packets.SUBACK, two(1) + b"\x00")),
    "PINGRESP from a client": (BOTH, raw(packets.PINGRESP, b"")),
    "AUTH without having agreed on it": (V5, raw(packets.AUTH, b"\x18" + section([("authentication_method", "x")]))),
    "AUTH in 3.1.1": (V4, raw(packets.AUTH, b"")),
    "packet type 0": (BOTH, raw(0, b"")),
} | {
    f"topic {name}": (BOTH, lambda s, c, v, wrong=wrong: packets.publish(v, s.prefix.encode() + wrong, b"x"))
    for name, wrong in BAD_TEXTS.items()
} | {f"filter {name}": (BOTH, subscribes("/", after=wrong)) for name, wrong in BAD_TEXTS.items()}
