"""An MQTT client, made of paho-mqtt, that remembers everything it hears and waits for what a test expects."""

import json
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

# Only a failure waits this long.
PATIENCE = 60


class Unheard(AssertionError):
    """What was waited for did not come."""


class Watcher:
    """Connected, and subscribed to `filters` at QoS 1, as soon as the constructor returns. It tries until `patience` is
    over, for the broker may still be on its way up."""

    def __init__(self, port, *filters, version=paho.MQTTv5, patience=PATIENCE):
        self.filters = filters
        self.messages = []
        self.changed = threading.Condition()
        self.ready = False
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=version)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message
        self.client.connect_async("127.0.0.1", port, keepalive=60)
        self.client.loop_start()
        with self.changed:
            if not self.changed.wait_for(lambda: self.ready, patience):
                self.client.loop_stop()
                raise Unheard(f"no MQTT session on port {port} within {patience} s")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, client, _userdata, _flags, reason, _properties):
        if not reason.is_failure and self.filters:
            client.subscribe([(name, 1) for name in self.filters])
        elif not reason.is_failure:
            self._on_subscribe()

    def _on_subscribe(self, *_):
        with self.changed:
            self.ready = True
            self.changed.notify_all()

    def _on_message(self, _client, _userdata, message):
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def mark(self):
        """A place in what was heard, for wait_for's `since`."""
        with self.changed:
            return len(self.messages)

    def wait_for(self, topic, expected=lambda message: True, *, since=0, patience=PATIENCE, what="any message"):
        """The first message on this topic, after the mark, of which `expected` is true."""
        with self.changed:
            found = self.changed.wait_for(lambda: self._first(topic, expected, since), patience)
        if found:
            return found
        heard = [m.payload.decode(errors="replace") for m in self.messages[since:] if m.topic == topic]
        raise Unheard(f"{topic}: {what} expected within {patience} s, heard {heard[-10:] or 'nothing'}")

    def _first(self, topic, expected, since):
        return next((m for m in self.messages[since:] if m.topic == topic and expected(m)), None)

    def wait_for_text(self, topic, text, **how):
        return self.wait_for(topic, lambda m: m.payload == text.encode(), what=repr(text), **how)

    def wait_for_value(self, topic, expected, **how):
        """The first JSON payload whose `value` satisfies `expected` (a value, or a predicate)."""
        wanted = expected if callable(expected) else lambda value: value == expected
        described = getattr(expected, "__name__", "another value") if callable(expected) else repr(expected)
        message = self.wait_for(topic, lambda m: wanted(value_of(m)), what=f"the value {described}", **how)
        return json.loads(message.payload)

    def publish(self, topic, payload, *, qos=1, retain=False, properties=None):
        """Returns when the broker has acknowledged it."""
        self.client.publish(topic, payload, qos, retain, properties).wait_for_publish(PATIENCE)


def value_of(message):
    try:
        reading = json.loads(message.payload)
    except ValueError:
        return None
    return reading.get("value") if isinstance(reading, dict) else None


def publish_properties(**named):
    """MQTT 5 properties of a PUBLISH, named as paho names them."""
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in named.items():
        setattr(properties, name, value)
    return properties


def poll(condition, what, patience=PATIENCE):
    """For what makes no event: asks again and again, until it is true."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise Unheard(f"not within {patience} s: {what}")
        time.sleep(0.05)
