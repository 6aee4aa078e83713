"""paho-mqtt for Python against the release binary, in MQTT 3.1.1 and 5.0."""

import os
import unittest

from client import V3, V5, Client
from combinations import for_each
from program import Gateway

VERSIONS = {"3.1.1": V3, "5.0": V5}

# Reason codes of MQTT 5.
NOT_AUTHORIZED = 0x87
SESSION_TAKEN_OVER = 0x8E
PACKET_TOO_LARGE = 0x95


class Paho(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway([os.environ["FIELDGATE"]]))

    def connect(self, version=V5, **options):
        client = Client(self.gateway.port, version=version, **options)
        self.addCleanup(client.disconnect)
        return client

    def a_second_passes(self):
        """For the broker, which says so itself: a client with a keep-alive of one second falls silent and is given up
        after one and a half [MQTT-3.1.2-22]."""
        heir = self.connect()
        heir.subscribe("paho/second/passed", 1)
        silent = self.connect(keep_alive=1, will={"topic": "paho/second/passed", "payload": "silent", "qos": 1})
        silent.fall_silent()
        heir.wait_for_text("paho/second/passed", "silent")

    @for_each(VERSIONS)
    def test_messages_arrive_once_in_order_with_their_quality_of_service(self, version, qos, topic):
        subscriber, publisher = self.connect(version), self.connect(version)
        self.assertEqual(subscriber.subscribe(topic, qos).value, qos)
        for number in range(100):
            publisher.publish(topic, str(number), qos=qos)
        heard = subscriber.wait_for_count(100)
        self.assertEqual([m.payload for m in heard], [b"%d" % number for number in range(100)])
        self.assertEqual({(m.qos, m.retain) for m in heard}, {(qos, False)})
        self.assertEqual(len(subscriber.messages), 100)

    @for_each(VERSIONS)
    def test_the_lower_quality_of_service_decides(self, version, qos, topic):
        subscriber, publisher = self.connect(version), self.connect(version)
        subscriber.subscribe(topic, 1)
        publisher.publish(topic, "x", qos=qos)
        self.assertEqual(subscriber.wait_for(topic).qos, min(qos, 1))

    @for_each(VERSIONS)
    def test_a_retained_message_comes_with_the_subscription(self, version, qos, topic):
        self.connect(version).publish(topic, "kept", qos=qos, retain=True)
        subscriber = self.connect(version)
        subscriber.subscribe(topic, 2)
        message = subscriber.wait_for_text(topic, "kept")
        self.assertEqual((message.qos, message.retain), (qos, True))

    @for_each(VERSIONS)
    def test_a_will_is_published_for_a_client_that_is_cut_off(self, version, qos, topic):
        heir = self.connect(version)
        heir.subscribe(topic, 2)
        dying = self.connect(version, will={"topic": topic, "payload": "gone", "qos": qos, "retain": True})
        dying.abandon()
        self.assertEqual(heir.wait_for_text(topic, "gone").qos, qos)

    @for_each(VERSIONS, qualities=(1,))
    def test_a_client_that_falls_silent_is_given_up(self, version, qos, topic):
        heir = self.connect(version)
        heir.subscribe(topic, qos)
        will = {"topic": topic, "payload": "silent", "qos": qos}
        self.connect(version, keep_alive=1, will=will).fall_silent()
        heir.wait_for_text(topic, "silent")

    @for_each(VERSIONS, qualities=(1,))
    def test_a_client_that_says_goodbye_leaves_no_will(self, version, qos, topic):
        heir = self.connect(version)
        heir.subscribe(topic, 1)
        self.connect(version, will={"topic": topic, "payload": "gone"}).disconnect()
        heir.publish(topic, "after")
        self.assertEqual(heir.wait_for(topic).payload, b"after")

    @for_each(VERSIONS, qualities=(1, 2))
    def test_a_session_keeps_messages_while_its_client_is_away(self, version, qos, topic):
        session = {"client_id": topic.replace("/", "-"), "clean": False, "session_expiry": 600 if version == V5 else 0}
        first = self.connect(version, **session)
        self.assertFalse(first.connack.session_present)
        first.subscribe(topic, qos)
        first.abandon()
        publisher = self.connect(version)
        for number in range(50):
            publisher.publish(topic, str(number), qos=qos)
        second = self.connect(version, **session)
        self.assertTrue(second.connack.session_present)
        heard = second.wait_for_count(50)
        self.assertEqual([m.payload for m in heard], [b"%d" % number for number in range(50)])

    @for_each(VERSIONS, qualities=(1,))
    def test_a_clean_start_forgets_the_session(self, version, qos, topic):
        session = {"client_id": topic.replace("/", "-"), "session_expiry": 600 if version == V5 else 0}
        kept = self.connect(version, clean=False, **session)
        kept.subscribe(topic, 1)
        kept.disconnect()
        self.assertFalse(self.connect(version, clean=True, **session).connack.session_present)

    @for_each(VERSIONS, qualities=(1,))
    def test_a_second_client_of_the_same_name_takes_over(self, version, qos, topic):
        name = topic.replace("/", "-")
        first = self.connect(version, client_id=name)
        second = self.connect(version, client_id=name)
        reason = first.wait_for_disconnect()
        if version == V5:
            self.assertEqual(reason.value, SESSION_TAKEN_OVER)
        self.assertEqual(second.subscribe(topic, 1).value, 1)

    @for_each(VERSIONS)
    def test_a_large_payload_arrives_whole(self, version, qos, topic):
        payload = bytes(number * 7 % 251 for number in range(900 * 1024))
        subscriber, publisher = self.connect(version), self.connect(version)
        subscriber.subscribe(topic, qos)
        publisher.publish(topic, payload, qos=qos)
        self.assertEqual(subscriber.wait_for(topic).payload, payload)

    def test_a_packet_beyond_the_limit_ends_the_connection_with_a_reason(self):
        publisher = self.connect()
        self.assertEqual(publisher.connack.properties.MaximumPacketSize, 1 << 20)
        publisher.client.publish("paho/too-large", bytes(1 << 20), 1)
        self.assertEqual(publisher.wait_for_disconnect().value, PACKET_TOO_LARGE)

    def test_properties_go_through_in_order(self):
        subscriber, publisher = self.connect(), self.connect()
        subscriber.subscribe("paho/properties", 1)
        pairs = [("unit", "°C"), ("b", "2"), ("a", "1"), ("b", "3")]
        publisher.publish(
            "paho/properties",
            "21.5",
            UserProperty=pairs,
            ContentType="text/plain",
            ResponseTopic="paho/answers",
            CorrelationData=b"\0\xff",
            PayloadFormatIndicator=1,
            MessageExpiryInterval=600,
        )
        heard = subscriber.wait_for("paho/properties").properties
        self.assertEqual(heard.UserProperty, pairs)
        self.assertEqual((heard.ContentType, heard.PayloadFormatIndicator), ("text/plain", 1))
        self.assertEqual((heard.ResponseTopic, heard.CorrelationData), ("paho/answers", b"\0\xff"))
        self.assertLessEqual(heard.MessageExpiryInterval, 600)

    def test_messages_expire(self):
        session = {"client_id": "expiring", "clean": False, "session_expiry": 600}
        away = self.connect(**session)
        away.subscribe("paho/expiring/+", 1)
        away.abandon()
        publisher = self.connect()
        publisher.publish("paho/expiring/queued", "stale", MessageExpiryInterval=1)
        publisher.publish("paho/expiring/queued", "fresh", MessageExpiryInterval=600)
        publisher.publish("paho/expired/a", "stale", retain=True, MessageExpiryInterval=1)
        publisher.publish("paho/expired/b", "fresh", retain=True, MessageExpiryInterval=600)
        self.a_second_passes()
        queued = self.connect(**session).wait_for_count(1)[0]
        self.assertEqual(queued.payload, b"fresh")
        # What has passed of it is taken off.
        self.assertIn(queued.properties.MessageExpiryInterval, range(500, 600))
        late = self.connect()
        late.subscribe("paho/expired/#", 1)
        late.publish("paho/expired/end", "end")
        self.assertEqual({m.payload for m in late.wait_for_count(2)}, {b"fresh", b"end"})

    def test_a_session_expires(self):
        session = {"client_id": "expiring-session", "clean": False, "session_expiry": 1}
        self.connect(**session).disconnect()
        self.a_second_passes()
        self.assertFalse(self.connect(**session).connack.session_present)

    @for_each({"5.0": V5}, qualities=(1, 2))
    def test_a_client_gets_no_more_at_once_than_it_can_take(self, version, qos, topic):
        slow = self.connect(version, manual_ack=True, ReceiveMaximum=2)
        slow.subscribe(topic, qos)
        publisher = self.connect(version)
        for number in range(5):
            publisher.publish(topic, str(number), qos=qos)
        for number in range(5):
            on_their_way = slow.wait_for_count(min(number + 2, 5))
            # By the time that this is answered, a third one would be here.
            slow.subscribe(f"{topic}/fence", 0)
            self.assertEqual(len(slow.messages), len(on_their_way))
            slow.ack(on_their_way[number])
        self.assertEqual([m.payload for m in slow.messages], [b"0", b"1", b"2", b"3", b"4"])

    def test_a_client_without_a_name_is_given_one(self):
        name = self.connect().connack.properties.AssignedClientIdentifier
        other = self.connect().connack.properties.AssignedClientIdentifier
        self.assertTrue(name)
        self.assertNotEqual(name, other)

    def test_retained_messages_come_when_they_are_asked_for(self):
        client = self.connect()
        client.publish("paho/handling", "kept", retain=True)
        # 0: always, 1: with a subscription that is new, 2: never.
        for handling, is_new, comes in ((0, 1, 1), (0, 0, 1), (1, 0, 0), (1, 1, 1), (2, 1, 0), (2, 0, 0)):
            with self.subTest(handling=handling, is_new=is_new):
                if is_new:
                    client.unsubscribe("paho/handling")
                mark = client.mark()
                client.subscribe("paho/handling", 1, retainHandling=handling)
                client.publish("paho/handling", "new")
                heard = client.wait_for_count(1 + comes, since=mark)
                self.assertCountEqual([m.payload for m in heard], [b"new"] + [b"kept"] * comes)

    def test_dollar_topics_are_not_for_clients_to_publish(self):
        client = self.connect()
        client.subscribe("$paho/#", 1)
        self.assertEqual(client.publish("$paho/x", "x").value, NOT_AUTHORIZED)
        client.subscribe("paho/allowed", 1)
        client.publish("paho/allowed", "y")
        self.assertEqual([m.payload for m in client.wait_for_count(1)], [b"y"])

    def test_subscription_options_are_obeyed(self):
        client, other = self.connect(), self.connect()
        other.publish("paho/options/kept", "kept", retain=True)
        client.subscribe("paho/options/own", 1, noLocal=True)
        client.subscribe("paho/options/kept", 1, retainHandling=2, retainAsPublished=True)
        client.publish("paho/options/own", "mine")
        other.publish("paho/options/own", "another's")
        other.publish("paho/options/kept", "new", retain=True)
        heard = client.wait_for_count(2)
        self.assertEqual([(m.payload, m.retain) for m in heard], [(b"another's", False), (b"new", True)])

    def test_what_is_no_longer_subscribed_does_not_come(self):
        client = self.connect()
        client.subscribe("paho/ended", 1)
        client.unsubscribe("paho/ended")
        client.subscribe("paho/going-on", 1)
        client.publish("paho/ended", "x")
        client.publish("paho/going-on", "y")
        self.assertEqual(client.wait_for_count(1)[0].topic, "paho/going-on")


if __name__ == "__main__":
    unittest.main()
