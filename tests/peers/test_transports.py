"""TLS with certificates of the openssl command, and WebSocket: mosquitto's clients and paho-mqtt against the release
binary."""

import os
import ssl
import tempfile
import threading
import unittest

import paho.mqtt.client as paho
from authority import Authority
from mosquitto import Mosquitto
from program import Gateway

SECONDS_MAX = 60


def listeners(authority):
    tls = f'certificate = "{authority.path("server.pem")}", key = "{authority.path("server.key")}"'
    mutual = f'{tls}, client_ca = "{authority.path("ca.pem")}", require_client = true'
    return f"""
[access]
default = "deny"
[[access.rule]]
user = "pump-7"
allow = ["publish", "subscribe"]
filter = "mutual/%u/#"
[[access.rule]]
user = '{authority.subject("pump-7")}'
allow = ["publish", "subscribe"]
filter = "subject/#"
[[access.rule]]
anonymous = true
allow = ["publish", "subscribe"]
filter = "peers/#"
[listener.tls]
bind = "127.0.0.1:0"
protocols = ["mqtt", "websocket"]
allow_anonymous = true
tls = {{ {tls} }}
[listener.mutual]
bind = "127.0.0.1:0"
tls = {{ {mutual}, identity = "common_name" }}
allow_anonymous = false
[listener.subject]
bind = "127.0.0.1:0"
tls = {{ {mutual}, identity = "subject" }}
allow_anonymous = false
[listener.both]
bind = "127.0.0.1:0"
protocols = ["mqtt", "websocket"]
websocket = {{ path = "/mqtt" }}
"""


class Transports(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="fieldgate-peers."))
        cls.authority = Authority(folder)
        cls.authority.server()
        cls.authority.client("pump-7")
        cls.gateway = cls.enterClassContext(Gateway([os.environ["FIELDGATE"]], listeners(cls.authority)))
        cls.ports = {
            name: int(cls.gateway.wait_for(rf"listening name={name} address=127\.0\.0\.1:(\d+)\n")[1])
            for name in ("tls", "mutual", "subject", "both")
        }

    def mosquitto(self, name, version="mqttv5"):
        clients = Mosquitto(self.ports[name], version)
        credentials = ("--cert", self.authority.path("pump-7.pem"), "--key", self.authority.path("pump-7.key"))
        certain = credentials if name in ("mutual", "subject") else ()
        clients.broker += ("--cafile", self.authority.path("ca.pem"), *certain)
        return clients

    def test_mosquittos_clients_speak_tls_of_both_versions(self):
        for tls in ("tlsv1.2", "tlsv1.3"):
            for version in ("mqttv311", "mqttv5"):
                topic = f"peers/tls/{tls}/{version}"
                clients = self.mosquitto("tls", version)
                clients.broker += ("--tls-version", tls)
                with clients.subscriber("-t", topic, "-q", "2", "-C", "1", "-F", "message %p") as subscriber:
                    clients.pub("-t", topic, "-q", "2", "-m", "x" * 50000)
                    self.assertEqual(subscriber.messages(), ["x" * 50000])

    def test_mosquittos_clients_agree_on_mqtt_by_alpn(self):
        clients = self.mosquitto("tls")
        clients.pub("-t", "peers/alpn", "--tls-alpn", "mqtt", "-m", "x")
        with self.assertRaisesRegex(AssertionError, "A TLS error occurred"):
            clients.pub("-t", "peers/alpn", "--tls-alpn", "h2", "-m", "x")

    def test_a_client_is_called_as_its_certificate_says(self):
        for listener, topic in (("mutual", "mutual/pump-7/level"), ("subject", "subject/level")):
            clients = self.mosquitto(listener)
            clients.pub("-t", topic, "-q", "1", "-r", "-m", "named")
            self.assertEqual(clients.sub("-t", topic, "-C", "1"), "named\n")

    def test_a_client_without_a_certificate_is_refused(self):
        clients = Mosquitto(self.ports["mutual"], "mqttv5")
        clients.broker += ("--cafile", self.authority.path("ca.pem"))
        with self.assertRaisesRegex(AssertionError, "connection was lost"):
            clients.pub("-t", "mutual/pump-7/level", "-m", "x")

    def paho(self, name, version, tls):
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=version, transport="websockets")
        client.ws_set_options(path="/mqtt")
        if tls:
            client.tls_set(self.authority.path("ca.pem"), tls_version=ssl.PROTOCOL_TLS_CLIENT)
        here, heard = threading.Event(), []
        subscribed = threading.Event()

        def on_message(_client, _userdata, message):
            heard.append(message.payload)
            if len(heard) == 50:
                here.set()

        client.on_connect = lambda client, *_: client.subscribe(f"peers/ws/{name}/{version}", 1)
        client.on_subscribe = lambda *_: subscribed.set()
        client.on_message = on_message
        client.connect("localhost", self.ports[name])
        client.loop_start()
        self.addCleanup(client.loop_stop)
        self.addCleanup(client.disconnect)
        self.assertTrue(subscribed.wait(SECONDS_MAX), "no SUBACK over WebSocket")
        return client, here, heard

    def test_paho_speaks_websocket_with_and_without_tls(self):
        for name, tls in (("both", False), ("tls", True)):
            for version in (paho.MQTTv311, paho.MQTTv5):
                with self.subTest(listener=name, version=version):
                    client, here, heard = self.paho(name, version, tls)
                    expected = [b"%d " % number + b"y" * (number * 2000) for number in range(50)]
                    for payload in expected:
                        client.publish(f"peers/ws/{name}/{version}", payload, qos=1)
                    self.assertTrue(here.wait(SECONDS_MAX), f"{len(heard)} came")
                    self.assertEqual(heard, expected)

    def test_plain_mqtt_and_websocket_share_a_port(self):
        plain = Mosquitto(self.ports["both"], "mqttv5")
        client, here, heard = self.paho("both", paho.MQTTv5, False)
        topic = f"peers/ws/both/{paho.MQTTv5}"
        plain.pub("-t", topic, "-q", "1", "-l", lines=[f"{number}" for number in range(50)])
        self.assertTrue(here.wait(SECONDS_MAX))
        self.assertEqual(heard, [b"%d" % number for number in range(50)])


if __name__ == "__main__":
    unittest.main()
