"""gmqtt, a client on asyncio with a codec of its own, against the release binary, in MQTT 3.1.1 and 5.0."""

import asyncio
import os
import unittest

import gmqtt
from combinations import for_each
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from program import Gateway

VERSIONS = {"3.1.1": MQTTv311, "5.0": MQTTv50}
# Only a failure waits this long.
PATIENCE = 60


class Client(gmqtt.Client):
    """It remembers what it hears, and waits for it."""

    def __init__(self, name, **options):
        super().__init__(name, **options)
        # It comes back when a test says so.
        self.set_config({"reconnect_retries": 0})
        self.heard = asyncio.Queue()
        self.subscribed = asyncio.Event()
        self.on_message = lambda _client, topic, payload, qos, properties: self.hear(topic, payload, qos, properties)
        self.on_subscribe = lambda *_: self.subscribed.set()

    def hear(self, topic, payload, qos, properties):
        self.heard.put_nowait((topic, payload, qos, properties))
        return 0

    async def until_subscribed(self, topic, qos, **options):
        self.subscribed.clear()
        self.subscribe(topic, qos, **options)
        await asyncio.wait_for(self.subscribed.wait(), PATIENCE)

    async def next(self, count=1):
        return [await asyncio.wait_for(self.heard.get(), PATIENCE) for _ in range(count)]


class Gmqtt(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway([os.environ["FIELDGATE"]]))

    async def connected(self, version, name, **options):
        client = Client(name, **options)
        await asyncio.wait_for(client.connect("127.0.0.1", self.gateway.port, version=version), PATIENCE)
        return client

    @for_each(VERSIONS)
    def test_messages_arrive_in_order_with_their_quality_of_service(self, version, qos, topic):
        async def go():
            subscriber = await self.connected(version, f"s{version}{qos}")
            publisher = await self.connected(version, f"p{version}{qos}")
            await subscriber.until_subscribed(topic, qos)
            # Fewer than the broker takes before it has acknowledged one: gmqtt refuses to send more.
            for number in range(15):
                publisher.publish(topic, f"{number}", qos=qos)
            heard = await subscriber.next(15)
            self.assertEqual([message[:3] for message in heard], [(topic, b"%d" % number, qos) for number in range(15)])
            await subscriber.disconnect()
            await publisher.disconnect()

        asyncio.run(go())

    @for_each(VERSIONS)
    def test_a_retained_message_comes_with_the_subscription(self, version, qos, topic):
        async def go():
            publisher = await self.connected(version, f"p{version}{qos}")
            await publisher.until_subscribed(topic, 2)
            publisher.publish(topic, "kept", qos=qos, retain=True)
            # It is stored by the time that its publisher has it too.
            await publisher.next()
            subscriber = await self.connected(version, f"s{version}{qos}")
            await subscriber.until_subscribed(topic, 2)
            [(_, payload, came_at, properties)] = await subscriber.next()
            self.assertEqual((payload, came_at, properties["retain"]), (b"kept", qos, 1))
            await subscriber.disconnect()
            await publisher.disconnect()

        asyncio.run(go())

    @for_each(VERSIONS)
    def test_a_will_is_published_for_a_client_that_is_cut_off(self, version, qos, topic):
        async def go():
            heir = await self.connected(version, f"h{version}{qos}")
            await heir.until_subscribed(topic, 2)
            will = gmqtt.Message(topic, "gone", qos=qos)
            dying = await self.connected(version, f"d{version}{qos}", will_message=will)
            dying._connection._transport.abort()
            [(_, payload, came_at, _)] = await heir.next()
            self.assertEqual((payload, came_at), (b"gone", qos))
            await heir.disconnect()

        asyncio.run(go())

    @for_each(VERSIONS, qualities=(1, 2))
    def test_a_session_keeps_messages_for_a_client_that_is_away(self, version, qos, topic):
        async def go():
            session = {"clean_session": False} | ({"session_expiry_interval": 3600} if version == MQTTv50 else {})
            first = await self.connected(version, f"away{version}{qos}", **session)
            await first.until_subscribed(topic, qos)
            await first.disconnect()
            publisher = await self.connected(version, f"p{version}{qos}")
            await publisher.until_subscribed(topic, qos)
            for text in ("one", "two"):
                publisher.publish(topic, text, qos=qos)
            await publisher.next(2)
            back = Client(f"away{version}{qos}", **session)
            await back.connect("127.0.0.1", self.gateway.port, version=version)
            self.assertEqual([message[1] for message in await back.next(2)], [b"one", b"two"])
            await back.disconnect()
            await publisher.disconnect()

        asyncio.run(go())

    def test_properties_go_through(self):
        async def go():
            topic = "gmqtt/properties"
            subscriber = await self.connected(MQTTv50, "properties-s")
            await subscriber.until_subscribed(topic, 1, subscription_identifier=9)
            publisher = await self.connected(MQTTv50, "properties-p")
            sent = {
                "content_type": "text/plain",
                "response_topic": "gmqtt/answers",
                "correlation_data": b"42",
                "user_property": [("unit", "°C"), ("unit", "K")],
            }
            publisher.publish(topic, "21.5", qos=1, message_expiry_interval=3600, **sent)
            [(_, payload, _, properties)] = await subscriber.next()
            self.assertEqual(payload, b"21.5")
            self.assertEqual(properties["content_type"], ["text/plain"])
            self.assertEqual(properties["response_topic"], ["gmqtt/answers"])
            self.assertEqual(properties["correlation_data"], [b"42"])
            self.assertEqual(properties["user_property"], sent["user_property"])
            self.assertEqual(properties["subscription_identifier"], [9])
            self.assertTrue(0 < properties["message_expiry_interval"][0] <= 3600)
            await subscriber.disconnect()
            await publisher.disconnect()

        asyncio.run(go())


if __name__ == "__main__":
    unittest.main()
