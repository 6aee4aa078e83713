"""Sequences of steps for a few clients, drawn from a seed: most of them what clients do, some of them wrong."""

import random

import mistakes
import packets
from packets import PUBACK, PUBCOMP, PUBREC, PUBREL

ACKS = ("PUBACK", "PUBREC", "PUBCOMP")
CLIENTS = ("anna", "bert", "carl")
STEPS = 24


class Connect:
    """A client opens a connection and sends a CONNECT."""

    def __init__(self, client, version, what, data, **limits):
        self.client, self.version, self.data, self.limits = client, version, data, limits
        self.what = f"{client}: {what}"

    def play(self, stage):
        before = stage.of(self.client)
        if before and before.will:
            stage.remark("a will is taken over")
        connection = stage.open(self.client, self.version, **self.limits)
        connection.awaits_connack = True
        connection.send(self.data, self.what)


class Send:
    """A client sends packets in one write: pairs of what they are and their bytes."""

    def __init__(self, client, sent):
        self.client, self.data = client, b"".join(data for _, data in sent)
        self.what = f"{client}: " + " + ".join(what for what, _ in sent)

    def play(self, stage):
        connection = stage.of(self.client)
        if connection:
            if "PUBREL" in connection.hold and " q2" in self.what:
                stage.remark("PUBREL is held back")
            connection.send(self.data, self.what)


class Leave:
    """A client says goodbye, or is cut off."""

    def __init__(self, client, what, data=b""):
        self.client, self.what, self.data = client, f"{client}: {what}", data

    def play(self, stage):
        connection = stage.of(self.client)
        if connection:
            if self.data:
                connection.send(self.data, self.what)
                connection.is_ending = True
            else:
                connection.end_writing()


class Release:
    """A client sends the answers that it had held back. All of them: which came first is not laid down between topics."""

    def __init__(self, client):
        self.client, self.what = client, f"{client}: sends the answers that it held back"

    def play(self, stage):
        connection = stage.of(self.client)
        if connection:
            connection.release()


class Sequence:
    """`steps`, and the steps that take away what they left at a broker."""

    def __init__(self, seed):
        self.seed, self.rng = seed, random.Random(f"sequence {seed}")
        self.prefix = f"s{seed}"
        self.serial, self.topics = 0, set()
        self.versions, self.packet_ids, self.unreleased, self.aliases = {}, {}, {}, {}
        # Of each subscription, the options that it had last.
        self.options_of = {}
        # The version of each connection, by its name on a stage.
        self.of_connections = {}
        rng = self.rng
        # What this one is about: how often something is wrong, acknowledgements held back, shared subscriptions.
        self.is_hostile = rng.random() < 0.4
        self.is_shared = not self.is_hostile and rng.random() < 0.2
        self.steps = []
        for client in CLIENTS:
            self.versions[client] = 5 if self.is_shared else rng.choice((4, 5, 5))
            self.steps.append(self.connect(client))
        while len(self.steps) < STEPS:
            self.steps.append(self.step())
        opened = dict.fromkeys(CLIENTS, 0)
        for step in self.steps:
            if isinstance(step, Connect):
                opened[step.client] += 1
                self.of_connections[f"{step.client}.{opened[step.client]}"] = step.version

    def cleanup(self):
        """A client that removes retained messages and each client's session."""
        steps = [
            Connect(client, 5, "cleans up", packets.connect(5, self.client_id(client), clean=True)) for client in CLIENTS
        ]
        empty = [("", packets.publish(4, topic, b"", retain=True)) for topic in sorted(self.topics)]
        steps.append(Connect("cleaner", 4, "cleans up", packets.connect(4, f"{self.prefix}-cleaner")))
        steps.append(Send("cleaner", empty))
        return steps + [Leave(client, "leaves", packets.disconnect(4)) for client in (*CLIENTS, "cleaner")]

    def client_id(self, client):
        return f"{self.prefix}-{client}"

    def step(self):
        client = self.rng.choice(CLIENTS)
        if self.is_hostile and self.rng.random() < 0.25:
            return self.wrong(client)
        kinds = {
            self.publishing: 9,
            self.subscribing: 6,
            self.unsubscribing: 2,
            self.releasing: 0 if self.is_shared else 3,
            self.connect: 3,
            self.leaving: 0 if self.is_shared else 2,
            self.unusual_ack: 1 if self.is_hostile else 0,
        }
        return self.rng.choices(list(kinds), list(kinds.values()))[0](client)

    # What clients do.

    def connect(self, client):
        rng = self.rng
        version = self.versions[client]
        if not self.is_shared and rng.random() < 0.05:
            version = self.versions[client] = 9 - version
        clean = True if self.is_shared else rng.random() < 0.35
        properties, limits, will = [], {}, None
        if version == 5:
            if not self.is_shared and rng.random() < 0.7:
                properties.append(("session_expiry", rng.choice((0, 1000, 3600, 0xFFFFFFFF))))
            if rng.random() < 0.3:
                limits["receive_maximum"] = rng.choice((1, 2, 3))
                properties.append(("receive_maximum", limits["receive_maximum"]))
            if not self.is_shared and rng.random() < 0.15:
                limits["maximum_packet_size"] = rng.choice((40, 60, 200))
                properties.append(("maximum_packet_size", limits["maximum_packet_size"]))
            if rng.random() < 0.2:
                limits["alias_maximum"] = rng.choice((1, 5))
                properties.append(("topic_alias_maximum", limits["alias_maximum"]))
            if rng.random() < 0.1:
                properties.append(("request_problem_information", rng.choice((0, 1))))
            if rng.random() < 0.1:
                properties.append(("request_response_information", rng.choice((0, 1))))
            if rng.random() < 0.1:
                properties.append(("user_property", ("who", client)))
        if rng.random() < 0.2:
            delay = [("will_delay", rng.choice((0, 3000)))] if version == 5 and rng.random() < 0.4 else []
            topic = self.topic()
            limits["will"] = "delayed" if delay and delay[0][1] else "at once"
            will = (topic, self.payload(), rng.randrange(3), rng.random() < 0.2, delay + self.message_properties(version))
        if not self.is_shared and rng.random() < 0.3:
            limits["hold"] = rng.sample(ACKS, rng.randint(1, 3)) if rng.random() < 0.8 else ["PUBREL"]
        username = "somebody" if rng.random() < 0.1 else None
        password = b"secret" if username and rng.random() < 0.5 else None
        client_id = self.client_id(client)
        if rng.random() < 0.03:
            client_id, clean, limits["is_nameless"] = "", version == 4 or clean, True
        self.packet_ids[client], self.unreleased[client], self.aliases[client] = 0, [], {}
        keep_alive = 0 if rng.random() < 0.02 else 600
        what = f"CONNECT v{version} keep_alive={keep_alive} clean={int(clean)} id={client_id!r}{listed(properties)}"
        if will:
            what += f" will=({will[0]} q{will[2]}{' retain' if will[3] else ''}{listed(will[4])})"
        if limits.get("hold"):
            what += f" holds {'+'.join(limits['hold'])}"
        data = packets.connect(
            version,
            client_id,
            clean=clean,
            keep_alive=keep_alive,
            will=will,
            username=username,
            password=password,
            properties=properties,
        )
        return Connect(client, version, what, data, **limits)

    def publishing(self, client):
        # A message of QoS 2 may come when it is sent or when it is released, before or after others of that topic.
        qualities = self.rng.choice(((0, 1), (2,)))
        return Send(client, [self.publish(client, qualities) for _ in range(self.rng.choice((1, 1, 1, 1, 1, 2, 2, 4, 4, 15)))])

    def publish(self, client, qualities):
        rng, version = self.rng, self.versions[client]
        qos, retain, topic = rng.choice(qualities), rng.random() < 0.3, self.topic()
        payload = b"" if retain and rng.random() < 0.15 else self.payload()
        properties = self.message_properties(version)
        packet_id = self.next_id(client) if qos else None
        dup = bool(qos) and rng.random() < 0.05
        shown = topic
        if version == 5 and rng.random() < 0.2:
            alias = rng.randint(1, 3)
            properties.append(("topic_alias", alias))
            if rng.random() < 0.5 and alias in self.aliases[client]:
                topic, shown = "", f"({self.aliases[client][alias]})"
            else:
                self.aliases[client][alias] = topic
        self.topics.add(shown.strip("()"))
        what = f"PUBLISH {shown} {payload!r} q{qos}{' retain' if retain else ''}{' dup' if dup else ''}{listed(properties)}"
        if qos == 2:
            self.unreleased[client].append((packet_id, topic, payload, retain, properties))
        return what, packets.publish(
            version, topic, payload, qos=qos, retain=retain, dup=dup, packet_id=packet_id, properties=properties
        )

    def message_properties(self, version):
        rng, properties = self.rng, []
        if version != 5:
            return properties
        if rng.random() < 0.15:
            properties.append(("message_expiry", rng.choice((1000, 3000, 60000))))
        if rng.random() < 0.15:
            properties.append(("payload_format", rng.choice((0, 1))))
        if rng.random() < 0.15:
            properties.append(("content_type", "text/plain"))
        if rng.random() < 0.1:
            properties.append(("response_topic", f"{self.prefix}/answers"))
        if rng.random() < 0.1:
            properties.append(("correlation_data", b"\x00\xff"))
        for number in range(rng.choice((0, 0, 0, 0, 1, 2))):
            properties.append(("user_property", ("key", f"{number}")))
        rng.shuffle(properties)
        return properties

    def subscribing(self, client):
        rng, version = self.rng, self.versions[client]
        filters = [(self.filter(client), self.options(version)) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        if self.is_shared:
            # The same for every member, so that it is seen whether a message came, whoever got it.
            filters = [(name, 2 if name.startswith("$share") else options) for name, options in filters]
        properties = []
        if version == 5 and not self.is_shared and rng.random() < 0.4:
            properties.append(("subscription_id", rng.choice((1, 2, 3, 200))))
        known = self.options_of.setdefault(client, {})
        # Mostly it stays as it is.
        filters = [(name, known.get(name, options) if rng.random() < 0.9 else options) for name, options in filters]
        changes = False
        for name, options in filters:
            changes |= known.get(name, options) & 0xC != options & 0xC
            known[name] = options
        what = f"SUBSCRIBE {' '.join(f'{name}:{options:#x}' for name, options in filters)}{listed(properties)}"
        if changes:
            what += " [changes options]"
        return Send(client, [(what, packets.subscribe(version, self.next_id(client), filters, properties))])

    def unsubscribing(self, client):
        filters = [self.filter(client) for _ in range(self.rng.choice((1, 1, 2)))]
        data = packets.unsubscribe(self.versions[client], self.next_id(client), filters)
        return Send(client, [(f"UNSUBSCRIBE {' '.join(filters)}", data)])

    def releasing(self, client):
        """Answers that were held back; or a QoS 2 flow goes on: PUBLISH again, PUBREL."""
        rng, version = self.rng, self.versions[client]
        if self.unreleased[client] and rng.random() < 0.4:
            packet_id, topic, payload, retain, properties = rng.choice(self.unreleased[client])
            if rng.random() < 0.4 and topic:
                data = packets.publish(
                    version, topic, payload, qos=2, retain=retain, dup=True, packet_id=packet_id, properties=properties
                )
                return Send(client, [(f"PUBLISH again {packet_id}", data)])
            return Send(client, [(f"PUBREL {packet_id}", packets.ack(version, PUBREL, packet_id))])
        return Release(client)

    def leaving(self, client):
        rng, version = self.rng, self.versions[client]
        if rng.random() < 0.4:
            return Leave(client, "is cut off")
        reason, properties = 0, []
        if version == 5:
            reason = rng.choice((0, 0, 0, 4, 0x80, 0x82))
            if rng.random() < 0.3:
                properties.append(("session_expiry", rng.choice((0, 2000))))
            if rng.random() < 0.2:
                properties.append(("reason_string", "enough"))
        what = f"DISCONNECT {reason:#04x}{listed(properties)}"
        return Leave(client, what, packets.disconnect(version, reason, properties))

    def unusual_ack(self, client):
        """Answers that nobody waits for, or that refuse."""
        rng, version = self.rng, self.versions[client]
        kind = rng.choice((PUBACK, PUBREC, PUBREL, PUBCOMP))
        packet_id, reason = rng.choice((77, 65535)), 0
        if version == 5 and rng.random() < 0.5:
            reason = rng.choice({PUBACK: (0x10, 0x80, 0x97), PUBREC: (0x10, 0x80, 0x97)}.get(kind, (0x92,)))
        what = f"{packets.NAMES[kind]} {packet_id} {reason:#04x}"
        return Send(client, [(what, packets.ack(version, kind, packet_id, reason))])

    # Words.

    def next_id(self, client):
        self.packet_ids[client] += 1
        return self.packet_ids[client]

    def payload(self):
        self.serial += 1
        return f"m{self.serial}".encode()

    def topic(self):
        rng = self.rng
        levels = [rng.choice(("a", "a", "b", "")) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
        prefix = self.prefix if rng.random() < 0.99 else f"${self.prefix}"
        topic = "/".join([prefix, *levels])
        self.topics.add(topic)
        return topic

    def filter(self, client):
        rng = self.rng
        if self.is_shared and rng.random() < 0.5:
            # Who of a group gets a message is a broker's choice, so that it is compared as a whole: nobody subscribes to
            # these in another way.
            return f"$share/{rng.choice('xy')}/{self.prefix}/a"
        levels = [rng.choice(("a", "a", "b", "", "+", "+")) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
        if rng.random() < 0.3:
            levels[-1] = "#"
        if self.is_shared:
            levels.insert(0, "only")
        first = rng.choice((self.prefix,) * 10 + ("+", f"${self.prefix}"))
        if rng.random() < 0.03 and not self.is_shared:
            return "#"
        return "/".join([first, *levels])

    def options(self, version):
        rng = self.rng
        options = rng.randrange(3)
        if version == 5:
            options |= rng.choice((0, 0, 0, 4)) | rng.choice((0, 0, 8)) | rng.choice((0, 0, 0, 1, 2)) << 4
        return options

    # What is wrong.

    def wrong(self, client):
        what, data, of_connection = mistakes.draw(self, client)
        if of_connection is not None:
            self.packet_ids[client], self.unreleased[client], self.aliases[client] = 0, [], {}
            return Connect(client, self.versions[client], what, data, **of_connection)
        return Send(client, [(what, data)])


def listed(properties):
    return "".join(f" {item.hex()}" if isinstance(item, bytes) else f" {item[0]}={item[1]!r}" for item in properties)
