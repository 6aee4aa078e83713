"""`fieldgate pub` and `fieldgate sub` over TLS and WebSocket, against our own listeners and against mosquitto's."""

import os
import pathlib
import subprocess
import tempfile
import unittest

from authority import Authority
from mosquitto_broker import MosquittoBroker
from program import Gateway

FIELDGATE = os.environ["FIELDGATE"]
SECONDS_MAX = 120


def ours(authority):
    def tls(name, more=""):
        return f'tls = {{ certificate = "{authority.path(f"{name}.pem")}", key = "{authority.path(f"{name}.key")}"{more} }}'

    mutual = f', client_ca = "{authority.path("ca.pem")}", require_client = true'
    listeners = {
        "plain": "",
        "tls": tls("server"),
        "mutual": tls("server", mutual),
        "other": tls("pump-7"),
        "ws": 'protocols = ["websocket"]',
        "wss": f'protocols = ["websocket"]\n{tls("server")}',
    }
    return "".join(
        f'[listener.{name}]\nbind = "127.0.0.1:0"\nallow_anonymous = true\n{more}\n' for name, more in listeners.items()
    )


def theirs(authority):
    def tls(name):
        return f"certfile {authority.path(f'{name}.pem')}\nkeyfile {authority.path(f'{name}.key')}\n"

    return {
        "plain": "",
        "tls": tls("server"),
        "mutual": f"{tls('server')}cafile {authority.path('ca.pem')}\nrequire_certificate true\n",
        "other": tls("pump-7"),
        "ws": "protocol websockets\n",
        "wss": f"protocol websockets\n{tls('server')}",
    }


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="fieldgate-peers.")))
        cls.authority = Authority(cls.folder)
        cls.authority.server()
        cls.authority.client("pump-7")
        cls.authority.client("stranger")
        gateway = cls.enterClassContext(Gateway([FIELDGATE], ours(cls.authority)))
        mosquitto = cls.enterClassContext(MosquittoBroker(**theirs(cls.authority)))
        cls.ports = {
            "fieldgate": {
                name: int(gateway.wait_for(rf"listening name={name} address=127\.0\.0\.1:(\d+)\n")[1])
                for name in mosquitto.ports
            },
            "mosquitto": mosquitto.ports,
        }
        cls.trust = ("--cafile", cls.authority.path("ca.pem"))
        cls.is_pump = ("--cert", cls.authority.path("pump-7.pem"), "--key", cls.authority.path("pump-7.key"))

    def run_command(self, verb, *arguments, data=None):
        return subprocess.run(
            [FIELDGATE, verb, *map(str, arguments)], input=data, capture_output=True, timeout=SECONDS_MAX
        )

    def succeed(self, *arguments, data=None):
        done = self.run_command(*arguments, data=data)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def fail(self, wanted, *arguments):
        """The command ends with 1, and says so."""
        done = self.run_command("pub", "-t", "commands/none", "-m", "x", *arguments)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr.decode(), wanted)

    def each(self, listener):
        for broker, ports in self.ports.items():
            with self.subTest(broker=broker):
                yield ports[listener]

    def round_trip(self, where):
        """Longer than a record and a frame, there and back."""
        payload = bytes(range(256)) * 1200
        self.succeed("pub", *where, "-t", "commands/there", "-q", "2", "-r", "-s", data=payload)
        self.assertEqual(self.succeed("sub", *where, "-t", "commands/there", "-q", "2", "-C", "1", "-N"), payload)

    def test_over_tls_of_both_versions(self):
        for port in self.each("tls"):
            for version in ("tlsv1.2", "tlsv1.3"):
                self.round_trip(["-h", "localhost", "-p", port, *self.trust, "--tls-version", version, "-V", "5"])

    def test_with_a_certificate_of_ones_own(self):
        for port in self.each("mutual"):
            for version in ("tlsv1.2", "tlsv1.3"):
                self.round_trip(["-h", "localhost", "-p", port, *self.trust, *self.is_pump, "--tls-version", version])

    def test_by_url(self):
        for broker, ports in self.ports.items():
            with self.subTest(broker=broker):
                topic = "commands/url"
                url = f"mqtts://localhost:{ports['tls']}/{topic}"
                self.succeed("pub", "-L", url, *self.trust, "-q", "1", "-r", "-m", "by url")
                self.assertEqual(self.succeed("sub", "-L", url, *self.trust, "-C", "1"), b"by url\n")
                for scheme, trust in (("ws", ()), ("wss", self.trust)):
                    url = f"{scheme}://localhost:{ports[scheme]}/mqtt"
                    self.assertEqual(self.succeed("sub", "-L", url, *trust, "-t", topic, "-C", "1"), b"by url\n")

    def test_over_websocket(self):
        for port in self.each("ws"):
            self.round_trip(["-L", f"ws://localhost:{port}/mqtt"])
        for port in self.each("wss"):
            self.round_trip(["-L", f"wss://localhost:{port}/mqtt", *self.trust, "-V", "5"])

    def test_with_a_folder_of_authorities(self):
        for port in self.each("tls"):
            self.round_trip(["-h", "localhost", "-p", port, "--capath", self.folder])

    def test_the_servers_own_certificate_may_be_what_is_trusted(self):
        for port in self.each("tls"):
            self.round_trip(["-h", "localhost", "-p", port, "--cafile", self.authority.path("server.pem")])

    def test_a_server_that_nobody_vouches_for_is_refused(self):
        for port in self.each("tls"):
            where = ["-h", "localhost", "-p", port]
            self.fail(r"cannot connect to localhost:\d+.*no authority that is trusted has signed", *where, "--tls-use-os-certs")
            self.fail("no authority that is trusted", *where, "--cafile", self.authority.path("stranger.pem"), "--insecure")

    def test_a_server_by_another_name_is_refused_unless_that_will_do(self):
        for port in self.each("other"):
            where = ["-h", "localhost", "-p", port, *self.trust]
            self.fail("the server's certificate is for", *where)
            self.round_trip([*where, "--insecure"])

    def test_who_has_no_certificate_hears_what_is_missing(self):
        for port in self.each("mutual"):
            where = ["-h", "localhost", "-p", port, *self.trust]
            for version in ("tlsv1.2", "tlsv1.3"):
                self.fail("(?i)certificate.?required|handshake.?failure|closed in the TLS", *where, "--tls-version", version)

    def test_files_that_cannot_be_used_are_named(self):
        port = self.ports["fieldgate"]["tls"]
        where = ["-h", "localhost", "-p", port]
        key = self.authority.path("stranger.key")
        certificate = self.authority.path("pump-7.pem")
        self.fail(f"--cafile {key}: there is no certificate in it", *where, "--cafile", key)
        self.fail("--cafile /nowhere.pem: No such file", *where, "--cafile", "/nowhere.pem")
        mismatched = ["--cert", certificate, "--key", key]
        self.fail(f"--key {key}: it is not the key of the certificate in {certificate}", *where, *self.trust, *mismatched)

    def test_who_speaks_something_else_is_told_so(self):
        ports = self.ports["fieldgate"]
        self.fail("TLS", "-h", "localhost", "-p", ports["plain"], *self.trust)
        self.fail("refuses WebSocket: 404", "-L", f"ws://localhost:{ports['ws']}/elsewhere")
        self.fail("WebSocket", "-L", f"ws://localhost:{ports['plain']}/mqtt")


if __name__ == "__main__":
    unittest.main()
