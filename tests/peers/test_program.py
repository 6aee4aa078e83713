"""The release binary as a program: the demo that a new user sees, and how it stops."""

import json
import os
import re
import signal
import subprocess
import unittest

from client import Client
from mosquitto import Mosquitto
from program import Demo, Gateway

# A reason code of MQTT 5.
NOT_AUTHORIZED = 0x87

FIELDGATE = [os.environ["FIELDGATE"]]


class TheDemo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.demo = cls.enterClassContext(Demo(FIELDGATE))

    def connect(self):
        client = Client(self.demo.port)
        self.addCleanup(client.disconnect)
        client.subscribe("demo/#", 1)
        return client

    def test_the_machines_own_sensors_and_the_plant_publish_values_that_change(self):
        client = self.connect()
        client.wait_for_text("demo/gateway/state", "online")
        client.wait_for_text("demo/machine/availability", "online")
        client.wait_for_text("demo/plant/availability", "online")
        values = [m for m in client.wait_for_count(60) if m.topic.count("/") == 2 and not m.topic.endswith("/availability")]
        by_topic = {}
        for message in values:
            by_topic.setdefault(message.topic, set()).add(message.payload)
        changing = {topic for topic, payloads in by_topic.items() if len(payloads) > 1}
        self.assertTrue(any(topic.startswith("demo/plant/") for topic in changing), by_topic)
        self.assertTrue(any(topic.startswith("demo/machine/") for topic in by_topic), by_topic)

    def test_what_its_help_says_shows_changing_values_and_switches_the_pump(self):
        clients = Mosquitto(self.demo.port, "mqttv5")
        with clients.subscriber("-v", "-t", "demo/#") as everything:
            everything.wait_for("^demo/plant/level/quality good$")
            level = re.escape(everything.wait_for("^demo/plant/level (.+)$")[1])
            everything.wait_for(f"^demo/plant/level (?!{level}$).+$")
        with clients.subscriber("-t", "demo/+/+/result", "-C", "1", "-F", "message %t %p") as result:
            clients.pub("-t", "demo/plant/pump/set", "-m", "on")
            topic, answer = result.messages()[0].split(" ", 1)
        self.assertEqual(topic, "demo/plant/pump/result")
        self.assertEqual(json.loads(answer)["status"], "ok")

    def switches(self, client):
        """Whether the pump is to run, first other than it does, with the command for that. The plant has to follow."""
        runs = client.wait_for("demo/plant/pump").payload == b"true"
        for wanted in (not runs, runs):
            mark = client.mark()
            yield wanted, "on" if wanted else "off"
            client.wait_for_text("demo/plant/pump", json.dumps(wanted), since=mark)

    def test_a_command_is_answered_and_changes_the_plant(self):
        client = self.connect()
        for wanted, command in self.switches(client):
            mark = client.mark()
            client.publish("demo/plant/pump/set", command)
            result = json.loads(client.wait_for("demo/plant/pump/result", since=mark).payload)
            self.assertEqual((result["status"], result["value"]), ("ok", wanted))

    def test_a_command_of_version_5_is_answered_where_it_asks(self):
        client = self.connect()
        client.subscribe("answers/mine", 1)
        for wanted, command in self.switches(client):
            mark = client.mark()
            client.publish("demo/plant/pump/set", command, ResponseTopic="answers/mine", CorrelationData=b"42")
            answer = client.wait_for("answers/mine", since=mark)
            result = json.loads(answer.payload)
            self.assertEqual((result["status"], result["value"]), ("ok", wanted))
            self.assertEqual(answer.properties.CorrelationData, b"42")

    def test_mosquitto_rr_gets_the_answer_to_its_own_question(self):
        clients = Mosquitto(self.demo.port, "mqttv5")
        for wanted, command in self.switches(self.connect()):
            question = ("-t", "demo/plant/pump/set", "-m", command, "-D", "publish", "correlation-data", f"my-{command}")
            correlation, answer = clients.rr(*question, "-e", "answers/rr", "-F", "%D %p").split(" ", 1)
            self.assertEqual(correlation, f"my-{command}")
            result = json.loads(answer)
            self.assertEqual((result["status"], result["value"]), ("ok", wanted))

    def test_a_retained_command_is_refused(self):
        client = self.connect()
        mark = client.mark()
        client.publish("demo/plant/pump/set", "on", retain=True)
        result = json.loads(client.wait_for("demo/plant/pump/result", since=mark).payload)
        self.assertEqual(result["status"], "error")

    def test_the_gateways_own_topics_are_protected(self):
        client = self.connect()
        self.assertEqual(client.publish("demo/plant/level", "1000").value, NOT_AUTHORIZED)
        mark = client.mark()
        client.publish("demo/plant/pump/get", "")
        client.wait_for("demo/plant/pump/result", since=mark)
        self.assertFalse([m for m in client.messages if m.payload == b"1000"])


class Stopping(unittest.TestCase):
    def test_both_signals_stop_it_cleanly(self):
        for by in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=by.name):
                gateway = Gateway(FIELDGATE)
                self.addCleanup(gateway.end)
                client = Client(gateway.port)
                self.addCleanup(client.disconnect)
                gateway.stop(by)
                client.wait_for_disconnect()

    def test_the_demo_stops_cleanly(self):
        Demo(FIELDGATE).stop()

    def test_its_state_is_offline_after_a_clean_stop(self):
        gateway = Gateway(FIELDGATE, '[device.machine]\ndriver = "system"\n')
        self.addCleanup(gateway.end)
        client = Client(gateway.port)
        self.addCleanup(client.disconnect)
        client.subscribe("test/gateway/state", 1)
        client.wait_for_text("test/gateway/state", "online")
        gateway.stop()
        client.wait_for_text("test/gateway/state", "offline")


class Configuration(unittest.TestCase):
    def test_a_wrong_file_is_explained_and_its_exit_status_is_78(self):
        with Gateway(FIELDGATE) as gateway:
            gateway.file.write_text('[gateway]\nname = "test"\nbase_topik = "x"\n')
            for verb in ("check", "run"):
                command = [*FIELDGATE, verb, "--config", str(gateway.file)]
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 78, done)
                self.assertIn("base_topik", done.stdout + done.stderr)
                self.assertIn("base_topic", done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
