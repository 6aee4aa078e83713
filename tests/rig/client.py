"""An MQTT client made of paho-mqtt, for tests that go step by step: each method returns when the broker has answered,
every message is remembered, and what does not come within a time limit is an error that says what did come."""

import json
import socket
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

V3 = paho.MQTTv311
V5 = paho.MQTTv5

# Only a failure waits this long.
PATIENCE = 60


class Unheard(AssertionError):
    """What was waited for did not come."""


class Client:
    """Connected as soon as the constructor returns. With `retry` it tries until the broker is up, and comes back when
    the connection is lost; otherwise a lost connection stays so and can be asked about. With `manual_ack` a message is
    acknowledged when `ack` is called."""

    def __init__(
        self,
        port,
        *,
        version=V5,
        client_id="",
        clean=True,
        session_expiry=0,
        keep_alive=60,
        will=None,
        retry=False,
        manual_ack=False,
        **properties,
    ):
        self.messages = []
        self.connack = None
        self.disconnect_reason = None
        self.answers = {}
        self.acknowledged = {}
        self.changed = threading.Condition()
        is_v5 = version == V5
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=version,
            clean_session=None if is_v5 else clean,
            reconnect_on_failure=retry,
            manual_ack=manual_ack,
        )
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.on_publish = self._on_publish
        self.client.on_subscribe = self._on_answer
        self.client.on_unsubscribe = self._on_answer
        if will:
            self.client.will_set(**will)
        of_v5 = {}
        if is_v5:
            if session_expiry:
                properties["SessionExpiryInterval"] = session_expiry
            of_v5 = {"clean_start": clean, "properties": named(PacketTypes.CONNECT, properties)}
        self.client.connect_async("127.0.0.1", port, keep_alive, **of_v5)
        self.client.loop_start()
        self._wait(lambda: self.connack, f"no MQTT session on port {port}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.disconnect()

    def disconnect(self):
        self.client.disconnect()
        self.client.loop_stop()

    def abandon(self):
        """Goes without a DISCONNECT, as a client does that loses its power."""
        connection = self.client.socket()
        if connection:
            connection.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def fall_silent(self):
        """Stays connected and neither says nor hears anything any more, as a client does that hangs."""
        self.client.loop_stop()

    def subscribe(self, topic_filter, qos=0, **options):
        """The reason code. `options` are those of MQTT 5: noLocal, retainAsPublished, retainHandling."""
        if options:
            _, packet = self.client.subscribe(topic_filter, options=paho.SubscribeOptions(qos, **options))
        else:
            _, packet = self.client.subscribe(topic_filter, qos)
        return self._answer(packet, f"no SUBACK for {topic_filter}")[0]

    def unsubscribe(self, topic_filter):
        _, packet = self.client.unsubscribe(topic_filter)
        self._answer(packet, f"no UNSUBACK for {topic_filter}")

    def publish(self, topic, payload, *, qos=1, retain=False, **properties):
        """Returns when the broker has acknowledged it, with its reason code (QoS 0: when it was sent). `properties` as
        paho names them."""
        of_v5 = named(PacketTypes.PUBLISH, properties)
        sent = self.client.publish(topic, payload, qos, retain, of_v5)
        self._wait(lambda: sent.mid in self.acknowledged, f"{topic}: not acknowledged")
        return self.acknowledged[sent.mid]

    def ack(self, message):
        self.client.ack(message.mid, message.qos)

    def mark(self):
        """A place in what was heard, for `since`."""
        with self.changed:
            return len(self.messages)

    def wait_for(self, topic, expected=lambda message: True, *, since=0, what="a message"):
        """The first message on this topic, after the mark, of which `expected` is true."""

        def first():
            return next((m for m in self.messages[since:] if m.topic == topic and expected(m)), None)

        def heard():
            payloads = [m.payload[:200] for m in self.messages[since:] if m.topic == topic]
            return f"{topic}: no {what}, but {payloads[-10:] or 'nothing'}"

        return self._wait(first, heard)

    def wait_for_text(self, topic, text, **how):
        return self.wait_for(topic, lambda m: m.payload == text.encode(), what=repr(text), **how)

    def wait_for_value(self, topic, expected, **how):
        """The first JSON payload whose `value` is as expected: equal, or accepted by a predicate."""
        wanted = expected if callable(expected) else lambda value: value == expected
        what = f"value {getattr(expected, '__name__', repr(expected))}"
        return json.loads(self.wait_for(topic, lambda m: wanted(value_of(m)), what=what, **how).payload)

    def wait_for_count(self, count, since=0):
        """That many messages, in order of arrival."""
        self._wait(lambda: len(self.messages) - since >= count, lambda: f"{len(self.messages) - since} of {count} messages")
        return self.messages[since : since + count]

    def wait_for_disconnect(self):
        """The reason code with which the broker ended the connection."""
        return self._wait(lambda: self.disconnect_reason, "the connection is still there")

    def _wait(self, condition, otherwise):
        with self.changed:
            self.changed.wait_for(condition, PATIENCE)
            result = condition()
            if result:
                return result
            raise Unheard(f"within {PATIENCE} s: {otherwise() if callable(otherwise) else otherwise}")

    def _answer(self, packet, otherwise):
        self._wait(lambda: packet in self.answers, otherwise)
        return self.answers[packet]

    def _note(self, **changes):
        with self.changed:
            vars(self).update(changes)
            self.changed.notify_all()

    def _on_connect(self, _client, _userdata, flags, reason, properties):
        self._note(connack=Connack(flags.session_present, reason, properties))

    def _on_disconnect(self, _client, _userdata, _flags, reason, _properties):
        # paho calls this a second time, without a reason, when it finds its socket closed.
        if self.disconnect_reason is None:
            self._note(disconnect_reason=reason)

    def _on_message(self, _client, _userdata, message):
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def _on_publish(self, _client, _userdata, packet, reason, _properties):
        with self.changed:
            self.acknowledged[packet] = reason
            self.changed.notify_all()

    def _on_answer(self, _client, _userdata, packet, reasons, _properties):
        with self.changed:
            self.answers[packet] = reasons
            self.changed.notify_all()


class Connack:
    """What the broker said to the CONNECT."""

    def __init__(self, session_present, reason, properties):
        self.session_present = session_present
        self.reason = reason
        self.properties = properties


def named(packet, values):
    """paho's properties of a packet of MQTT 5, or None without any."""
    if not values:
        return None
    properties = Properties(packet)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def value_of(message):
    try:
        reading = json.loads(message.payload)
    except ValueError:
        return None
    return reading.get("value") if isinstance(reading, dict) else None
