"""mosquitto's own clients against the release binary, in MQTT 3.1.1 and 5.0."""

import os
import re
import signal
import subprocess
import unittest

from combinations import for_each
from program import Gateway

VERSIONS = {name: name for name in ("mqttv311", "mqttv5")}
SECONDS_MAX = 60


class Mosquitto(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = cls.enterClassContext(Gateway([os.environ["FIELDGATE"]]))

    def arguments(self, version, *arguments):
        return ["-h", "127.0.0.1", "-p", str(self.gateway.port), "-V", version, *arguments]

    def pub(self, version, *arguments, **how):
        """mosquitto_pub, which has to succeed."""
        command = ["mosquitto_pub", *self.arguments(version, *arguments)]
        subprocess.run(command, check=True, timeout=SECONDS_MAX, text=True, **how)

    def sub(self, version, *arguments):
        """What mosquitto_sub prints until it ends by itself."""
        command = ["mosquitto_sub", "-W", str(SECONDS_MAX), *self.arguments(version, *arguments)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    @for_each(VERSIONS)
    def test_a_message_arrives_with_its_quality_of_service(self, version, qos, topic):
        with Subscriber(self.arguments(version, "-t", topic, "-q", str(qos), "-C", "1", "-F", "%q %r %t %p")) as subscriber:
            self.pub(version, "-t", topic, "-q", str(qos), "-m", "hello")
            self.assertIn(f"{qos} 0 {topic} hello", subscriber.until_it_ends())

    @for_each(VERSIONS)
    def test_messages_arrive_in_order(self, version, qos, topic):
        lines = [f"{number}" for number in range(1000)]
        options = ("-t", topic, "-q", str(qos), "-C", "1000", "-F", "message %p")
        with Subscriber(self.arguments(version, *options)) as subscriber:
            self.pub(version, "-t", topic, "-q", str(qos), "-l", input="\n".join(lines) + "\n")
            printed = subscriber.until_it_ends()
        self.assertEqual(re.findall(r"^message (\d+)$", printed, re.MULTILINE), lines)

    def test_versions_understand_each_other(self):
        for version, other in (tuple(VERSIONS), tuple(reversed(VERSIONS))):
            topic = f"mosquitto/mixed/{version}"
            self.pub(version, "-t", topic, "-q", "1", "-r", "-m", f"from {version}")
            self.assertEqual(self.sub(other, "-t", topic, "-C", "1"), f"from {version}\n")

    @for_each(VERSIONS)
    def test_a_retained_message_waits_and_can_be_removed(self, version, qos, topic):
        self.pub(version, "-t", topic, "-q", str(qos), "-r", "-m", "kept")
        self.assertEqual(self.sub(version, "-t", topic, "-C", "1", "-F", "%r %p"), "1 kept\n")
        self.pub(version, "-t", topic, "-q", str(qos), "-r", "-n")
        # Only the new message comes, so the retained one is gone.
        with Subscriber(self.arguments(version, "-t", topic, "-C", "1", "-F", "message %r %p")) as subscriber:
            self.pub(version, "-t", topic, "-m", "new")
            self.assertIn("message 0 new", subscriber.until_it_ends())

    @for_each(VERSIONS, qualities=(1, 2))
    def test_a_session_keeps_messages_for_a_client_that_is_away(self, version, qos, topic):
        # In 5.0, -c also asks for a session that never expires.
        session = ["-i", f"away-{version}-{qos}", "-c", "-q", str(qos), "-t", topic]
        self.sub(version, *session, "-E")
        self.pub(version, "-t", topic, "-q", str(qos), "-l", input="one\ntwo\n")
        self.assertEqual(self.sub(version, *session, "-C", "2"), "one\ntwo\n")

    @for_each(VERSIONS)
    def test_a_will_is_published_for_a_client_that_is_killed(self, version, qos, topic):
        heir = Subscriber(self.arguments(version, "-t", topic, "-q", "2", "-C", "1", "-F", "message %q %p"))
        will = ["--will-topic", topic, "--will-payload", "killed", "--will-qos", str(qos)]
        dying = Subscriber(self.arguments(version, "-t", "peers/nothing", *will))
        with heir, dying:
            dying.process.send_signal(signal.SIGKILL)
            self.assertIn(f"message {qos} killed", heir.until_it_ends())

    def test_properties_of_version_5_go_through(self):
        topic = "mosquitto/properties"
        published = ["user-property", "unit", "°C"], ["content-type", "text/plain"], ["correlation-data", "42"]
        properties = [word for pair in published for word in ("-D", "publish", *pair)]
        self.pub("mqttv5", "-t", topic, "-r", "-m", "21.5", *properties, "-D", "publish", "response-topic", "answers")
        heard = self.sub("mqttv5", "-t", topic, "-C", "1", "-F", "%p %P %C %D %R")
        self.assertEqual(heard, "21.5 unit:°C text/plain 42 answers\n")

    def test_wildcards_and_the_dollar_rule(self):
        self.pub("mqttv5", "-t", "mosquitto/wild/a/b", "-r", "-m", "deep")
        self.assertEqual(self.sub("mqttv5", "-t", "mosquitto/wild/+/b", "-C", "1"), "deep\n")
        self.assertEqual(self.sub("mqttv5", "-t", "mosquitto/wild/#", "-C", "1"), "deep\n")
        with Subscriber(self.arguments("mqttv5", "-t", "#", "-R", "-C", "1", "-F", "message %t")) as everything:
            self.pub("mqttv5", "-t", "mosquitto/last", "-m", "x")
            self.assertIn("message mosquitto/last", everything.until_it_ends())


class Subscriber:
    """mosquitto_sub in the background, subscribed as soon as the constructor returns."""

    def __init__(self, arguments):
        command = ["stdbuf", "-oL", "mosquitto_sub", "-d", "-W", str(SECONDS_MAX), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.printed = ""
        for line in self.process.stdout:
            self.printed += line
            if line.startswith("Subscribed"):
                return
        self.process.wait()
        raise AssertionError(f"mosquitto_sub did not subscribe: {self.printed}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def until_it_ends(self):
        """All that it printed, debug lines included."""
        return self.printed + self.process.stdout.read()


if __name__ == "__main__":
    unittest.main()
