"""mosquitto's own clients against the release binary, in MQTT 3.1.1 and 5.0."""

import os
import unittest

from combinations import for_each
from mosquitto import Mosquitto
from program import Gateway

VERSIONS = {name: name for name in ("mqttv311", "mqttv5")}


class MosquittosClients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        gateway = cls.enterClassContext(Gateway([os.environ["FIELDGATE"]]))
        cls.of = {version: Mosquitto(gateway.port, version) for version in VERSIONS}

    @for_each(VERSIONS)
    def test_a_message_arrives_with_its_quality_of_service(self, version, qos, topic):
        clients = self.of[version]
        with clients.subscriber("-t", topic, "-q", str(qos), "-C", "1", "-F", "message %q %r %t %p") as subscriber:
            clients.pub("-t", topic, "-q", str(qos), "-m", "hello")
            self.assertEqual(subscriber.messages(), [f"{qos} 0 {topic} hello"])

    @for_each(VERSIONS)
    def test_messages_arrive_in_order(self, version, qos, topic):
        clients = self.of[version]
        lines = [f"{number}" for number in range(1000)]
        with clients.subscriber("-t", topic, "-q", str(qos), "-C", "1000", "-F", "message %p") as subscriber:
            clients.pub("-t", topic, "-q", str(qos), "-l", lines=lines)
            self.assertEqual(subscriber.messages(), lines)

    def test_versions_understand_each_other(self):
        for version, other in (tuple(VERSIONS), tuple(reversed(VERSIONS))):
            topic = f"mosquitto/mixed/{version}"
            self.of[version].pub("-t", topic, "-q", "1", "-r", "-m", f"from {version}")
            self.assertEqual(self.of[other].sub("-t", topic, "-C", "1"), f"from {version}\n")

    @for_each(VERSIONS)
    def test_a_retained_message_waits_and_can_be_removed(self, version, qos, topic):
        clients = self.of[version]
        clients.pub("-t", topic, "-q", str(qos), "-r", "-m", "kept")
        self.assertEqual(clients.sub("-t", topic, "-C", "1", "-F", "%r %p"), "1 kept\n")
        clients.pub("-t", topic, "-q", str(qos), "-r", "-n")
        # Only the new message comes, so the retained one is gone.
        with clients.subscriber("-t", topic, "-C", "1", "-F", "message %r %p") as subscriber:
            clients.pub("-t", topic, "-m", "new")
            self.assertEqual(subscriber.messages(), ["0 new"])

    @for_each(VERSIONS, qualities=(1, 2))
    def test_a_session_keeps_messages_for_a_client_that_is_away(self, version, qos, topic):
        clients = self.of[version]
        # In 5.0, -c also asks for a session that never expires.
        session = ["-i", f"away-{version}-{qos}", "-c", "-q", str(qos), "-t", topic]
        clients.sub(*session, "-E")
        clients.pub("-t", topic, "-q", str(qos), "-l", lines=["one", "two"])
        self.assertEqual(clients.sub(*session, "-C", "2", "-F", "%q %p"), f"{qos} one\n{qos} two\n")

    @for_each(VERSIONS)
    def test_a_will_is_published_for_a_client_that_is_killed(self, version, qos, topic):
        clients = self.of[version]
        will = ["--will-topic", topic, "--will-payload", "killed", "--will-qos", str(qos)]
        with (
            clients.subscriber("-t", topic, "-q", "2", "-C", "1", "-F", "message %q %p") as heir,
            clients.subscriber("-t", "peers/nothing", *will) as dying,
        ):
            dying.kill()
            self.assertEqual(heir.messages(), [f"{qos} killed"])

    def test_a_client_of_version_5_hears_that_it_is_taken_over(self):
        clients = self.of["mqttv5"]
        with clients.subscriber("-i", "taken-over", "-t", "peers/nothing") as first:
            clients.pub("-i", "taken-over", "-t", "peers/nothing/else", "-m", "x")
            # Session taken over, which is 0x8E: mosquitto_sub gives up.
            first.wait_for(r"^Received DISCONNECT \(142\)$")
            first.output.rest()

    def test_a_client_of_version_3_that_is_taken_over_comes_back(self):
        clients = self.of["mqttv311"]
        topic = "mosquitto/taken-over"
        with clients.subscriber("-i", "taken-over-3", "-t", topic, "-C", "1", "-F", "message %p") as first:
            # It cannot be told why, and connects again; by then the other one is done.
            clients.pub("-i", "taken-over-3", "-t", "peers/nothing", "-m", "x")
            first.wait_for("^Subscribed", count=2)
            clients.pub("-t", topic, "-m", "hello again")
            self.assertEqual(first.messages(), ["hello again"])

    def test_properties_of_version_5_go_through(self):
        topic = "mosquitto/properties"
        published = ["user-property", "unit", "°C"], ["content-type", "text/plain"], ["correlation-data", "42"]
        properties = [word for pair in published for word in ("-D", "publish", *pair)]
        clients = self.of["mqttv5"]
        clients.pub("-t", topic, "-r", "-m", "21.5", *properties, "-D", "publish", "response-topic", "answers")
        heard = clients.sub("-t", topic, "-C", "1", "-F", "%p %P %C %D %R")
        self.assertEqual(heard, "21.5 unit:°C text/plain 42 answers\n")

    def test_wildcards_match_as_they_should(self):
        clients = self.of["mqttv5"]
        topics = ["wild", "wild/a", "wild/a/b", "wild//b", "wilder/a/b"]
        for topic in topics:
            clients.pub("-t", topic, "-r", "-q", "1", "-m", "x")
        matching = {
            "wild/#": ["wild", "wild/a", "wild/a/b", "wild//b"],
            "wild/+": ["wild/a"],
            "wild/+/b": ["wild/a/b", "wild//b"],
            "+/a/b": ["wild/a/b", "wilder/a/b"],
        }
        for topic_filter, expected in matching.items():
            with (
                self.subTest(filter=topic_filter),
                clients.subscriber("-t", topic_filter, "-F", "message %t") as subscriber,
            ):
                # What should not come had its chance when this one does, which is not retained.
                expected.append(topic_filter.replace("+", "last").replace("#", "last"))
                clients.pub("-t", expected[-1], "-m", "x")
                for topic in expected:
                    subscriber.wait_for(f"^message {topic}$")
                subscriber.kill()
                self.assertEqual(sorted(subscriber.messages()), sorted(expected))


if __name__ == "__main__":
    unittest.main()
