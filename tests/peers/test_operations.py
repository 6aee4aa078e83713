"""What an operator relies on: whom a proxy speaks for, certificates that are renewed while clients are connected, and a
log in which no client writes what it likes."""

import os
import pathlib
import signal
import socket
import ssl
import tempfile
import unittest

from authority import Authority
from program import Gateway

FIELDGATE = os.environ["FIELDGATE"]
SECONDS_MAX = 60
CONNECT = b"\x10\x13\x00\x04MQTT\x04\x02\x00\x00\x00\x07patient"
CONNACK = b"\x20\x02\x00\x00"
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"


def hear(connection, expected):
    came = b""
    while len(came) < len(expected):
        part = connection.recv(len(expected) - len(came))
        assert part, f"closed after {came}"
        came += part
    assert came == expected, came


def text(of):
    encoded = of.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def packet(first, body):
    assert len(body) < 128
    return bytes((first, len(body))) + body


class Operations(unittest.TestCase):
    def test_nobody_writes_a_line_of_the_log_and_no_password_is_in_it(self):
        """A name with a line end, an escape sequence or a separator of lines in it would forge a line or paint a terminal."""
        log = '[log]\nlevel = "trace"\n'
        names = [f"a{end}2026-01-01T00:00:00.000Z ERROR all is lost" for end in ("\n", "\r", "\x1b[31m", "\x85", "\u2028")]
        with Gateway([FIELDGATE], log) as gateway:
            for name in names:
                with socket.create_connection(("127.0.0.1", gateway.port), SECONDS_MAX) as client:
                    login = text(name) + text(name) + text("swordfish")
                    client.sendall(packet(0x10, text("MQTT") + b"\x04\xc2\x00\x00" + login))
                    client.sendall(packet(0x30, text(name) + b"x") + packet(0x82, b"\x00\x01" + text(name) + b"\x00"))
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(4096):
                        pass
            gateway.stop()
            said = gateway.text()
        self.assertNotIn("swordfish", said)
        told = [line for line in said.split("\n") if "all is lost" in line]
        self.assertGreaterEqual(len(told), len(names), "the log does not say who it was")
        for line in told:
            self.assertTrue(line.isprintable(), repr(line))
            self.assertFalse(line.startswith("2026-01-01"), line)

    def test_the_broker_sees_whom_a_proxy_speaks_for(self):
        listener = """
[listener.proxied]
bind = "127.0.0.1:0"
proxy_protocol = { from = ["127.0.0.1"] }
[log]
levels = { gateway = "debug" }
"""
        with Gateway([FIELDGATE], listener) as gateway:
            port = int(gateway.wait_for(r"listening name=proxied address=127\.0\.0\.1:(\d+)\n")[1])
            with socket.create_connection(("127.0.0.1", port), SECONDS_MAX) as proxy:
                proxy.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 1883\r\n" + CONNECT)
                hear(proxy, CONNACK)
            gateway.wait_for(r"connection accepted conn=\S+ peer=192\.0\.2\.7:56324$")

    def test_sighup_takes_up_certificates_and_disturbs_nobody(self):
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="fieldgate-peers.")))
        authority = Authority(folder)
        authority.server()
        # Changes behind a link are noticed when they are asked for.
        links = folder / "links"
        links.mkdir()
        for name in ("server.pem", "server.key"):
            (links / name).symlink_to(folder / name)
        listener = f"""
[listener.tls]
bind = "127.0.0.1:0"
allow_anonymous = true
tls = {{ certificate = "{links}/server.pem", key = "{links}/server.key" }}
"""
        trust = ssl.create_default_context(cafile=authority.path("ca.pem"))
        with Gateway([FIELDGATE], listener) as gateway:
            port = int(gateway.wait_for(r"listening name=tls address=127\.0\.0\.1:(\d+)\n")[1])

            def connect():
                plain = socket.create_connection(("127.0.0.1", port), SECONDS_MAX)
                return self.enterContext(trust.wrap_socket(plain, server_hostname="localhost"))

            patient = connect()
            patient.sendall(CONNECT)
            hear(patient, CONNACK)
            old = patient.getpeercert(binary_form=True)
            authority.server()
            gateway.process.send_signal(signal.SIGHUP)
            self.assertTrue(gateway.output.wait_for("certificate in force", count=2), gateway.text())
            self.assertNotEqual(connect().getpeercert(binary_form=True), old)
            patient.sendall(PINGREQ)
            hear(patient, PINGRESP)


if __name__ == "__main__":
    unittest.main()
