"""SCRAM-SHA-256 with a client made of a socket and hashlib: none of the program's own code, and no library's either, for
those that there are do not speak it. The verifier is what `fieldgate passwd` makes."""

import base64
import hashlib
import hmac
import os
import pathlib
import secrets
import socket
import subprocess
import unittest

from program import Gateway, temporary_folder

FIELDGATE = os.environ["FIELDGATE"]
METHOD = "SCRAM-SHA-256"
CONNECT, CONNACK, DISCONNECT, AUTH = 0x10, 0x20, 0xE0, 0xF0
SUCCESS, CONTINUE, AGAIN, NOT_AUTHORIZED = 0x00, 0x18, 0x19, 0x87
METHOD_PROPERTY, DATA_PROPERTY = 0x15, 0x16
# Only a failure waits this long.
PATIENCE = 60


def number(value):
    """A Variable Byte Integer."""
    encoded = bytearray()
    while True:
        value, low = divmod(value, 128)
        encoded.append(low | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return len(value).to_bytes(2, "big") + value


def properties(data):
    both = bytes([METHOD_PROPERTY]) + text(METHOD) + bytes([DATA_PROPERTY]) + text(data)
    return number(len(both)) + both


def sign(key, message):
    return hmac.digest(key, message.encode(), "sha256")


class Scram:
    """RFC 5802 from the client's side."""

    def __init__(self, user, password):
        self.password = password
        self.bare = f"n={user},r={secrets.token_urlsafe(18)}"

    def first(self):
        return f"n,,{self.bare}"

    def last(self, asked):
        fields = dict(field.split("=", 1) for field in asked.split(","))
        assert fields["r"].startswith(self.bare.partition(",r=")[2])
        salt = base64.b64decode(fields["s"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, int(fields["i"]))
        client_key = sign(salted, "Client Key")
        unproven = f"c={base64.b64encode(b'n,,').decode()},r={fields['r']}"
        signed = f"{self.bare},{asked},{unproven}"
        signature = sign(hashlib.sha256(client_key).digest(), signed)
        proof = bytes(one ^ other for one, other in zip(client_key, signature))
        self.expected = "v=" + base64.b64encode(sign(sign(salted, "Server Key"), signed)).decode()
        return f"{unproven},p={base64.b64encode(proof).decode()}"


class Wire:
    """Packets of MQTT 5.0 over a socket."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.stream = self.socket.makefile("rb")

    def close(self):
        self.stream.close()
        self.socket.close()

    def send(self, packet_type, body):
        self.socket.sendall(bytes([packet_type]) + number(len(body)) + body)

    def connect(self, client_id, data):
        head = text("MQTT") + bytes([5, 0x02, 0, 0])
        self.send(CONNECT, head + properties(data) + text(client_id))

    def auth(self, reason, data):
        self.send(AUTH, bytes([reason]) + properties(data))

    def read(self):
        """Type, reason, and the properties that are texts or data; what else there is, is passed over."""
        packet_type = self.stream.read(1)[0]
        body = self.stream.read(self._number())
        if packet_type == CONNACK:
            body = body[1:]
        return packet_type, body[0], self._named(body[1:])

    def _number(self):
        value, shift = 0, 0
        while True:
            byte = self.stream.read(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    @staticmethod
    def _named(encoded):
        # None of these packets has so many that their length takes two bytes, except with both proof and limits.
        at = 1 if encoded and encoded[0] < 0x80 else 2
        widths = {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
        found = {}
        while at < len(encoded):
            name = encoded[at]
            at += 1
            if name in widths:
                at += widths[name]
                continue
            length = int.from_bytes(encoded[at : at + 2], "big")
            found[name] = encoded[at + 2 : at + 2 + length].decode()
            at += 2 + length
        return found


class ScramTests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = temporary_folder()
        cls.addClassCleanup(cls.folder.cleanup)
        file = str(pathlib.Path(cls.folder.name) / "passwd")
        for options, user in ((["-c", "-H", "scram-sha-256"], "anna"), (["-H", "sha512-pbkdf2"], "bert")):
            command = [FIELDGATE, "passwd", "-b", *options, file, user, f"secret of {user}"]
            subprocess.run(command, check=True, capture_output=True)
        access = f'[access]\npassword_file = "{file}"\n'
        cls.gateway = cls.enterClassContext(Gateway([FIELDGATE], access))

    def wire(self):
        wire = Wire(self.gateway.port)
        self.addCleanup(wire.close)
        return wire

    def enter(self, user, password):
        wire, scram = self.wire(), Scram(user, password)
        wire.connect(f"client of {user}", scram.first())
        packet_type, reason, named = wire.read()
        self.assertEqual((packet_type, reason, named[METHOD_PROPERTY]), (AUTH, CONTINUE, METHOD))
        wire.auth(CONTINUE, scram.last(named[DATA_PROPERTY]))
        return wire, scram

    def test_a_proof_lets_in_and_the_server_proves_itself(self):
        wire, scram = self.enter("anna", "secret of anna")
        packet_type, reason, named = wire.read()
        self.assertEqual((packet_type, reason), (CONNACK, SUCCESS))
        self.assertEqual(named[METHOD_PROPERTY], METHOD)
        self.assertEqual(named[DATA_PROPERTY], scram.expected)
        again = self.prove_again(wire, "secret of anna")
        packet_type, reason, named = wire.read()
        self.assertEqual((packet_type, reason, named[DATA_PROPERTY]), (AUTH, SUCCESS, again.expected))
        self.prove_again(wire, "wrong")
        packet_type, reason, _ = wire.read()
        self.assertEqual((packet_type, reason), (DISCONNECT, NOT_AUTHORIZED))
        self.assertEqual(wire.stream.read(), b"")

    def prove_again(self, wire, password):
        scram = Scram("anna", password)
        wire.auth(AGAIN, scram.first())
        packet_type, reason, named = wire.read()
        self.assertEqual((packet_type, reason), (AUTH, CONTINUE))
        wire.auth(CONTINUE, scram.last(named[DATA_PROPERTY]))
        return scram

    def test_a_wrong_password_an_unknown_user_and_one_without_a_verifier_are_told_alike(self):
        for user, password in (("anna", "wrong"), ("nobody", "secret of anna"), ("bert", "secret of bert")):
            with self.subTest(user):
                wire, _ = self.enter(user, password)
                packet_type, reason, named = wire.read()
                self.assertEqual((packet_type, reason), (CONNACK, NOT_AUTHORIZED))
                self.assertNotIn(METHOD_PROPERTY, named)
                self.assertEqual(wire.stream.read(), b"")


if __name__ == "__main__":
    unittest.main()
