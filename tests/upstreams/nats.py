"""NATS server with JetStream, whose MQTT listener keeps sessions and messages there.

It is killed when it has delivered all that it has. Stopped or killed while a reader's messages are under way, version
2.9.10 takes some of them for acknowledged when it is back: its stream has had them, and no reader gets them."""

import pathlib
import subprocess
import tempfile

from client import V3
from hanging import hang
from output import Output
from reader import MqttReader

CONFIGURATION = """
server_name: upstream
listen: "127.0.0.1:-1"
jetstream {{ store_dir: "{folder}/jetstream", max_memory_store: 64MB, max_file_store: 512MB }}
mqtt {{ listen: "127.0.0.1:{port}", ack_wait: "10s", max_ack_pending: 1000 }}
"""
# It chooses one itself, and says which.
ANY_PORT = -1


class Nats:
    """Starts when it is made."""

    name = "NATS"
    version = "3.1.1"
    profile = "generic"

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="fieldgate-nats.")
        self.file = pathlib.Path(self.folder.name) / "nats.conf"
        self.reader = None
        self.port = ANY_PORT
        self._start()

    def _start(self):
        self.file.write_text(CONFIGURATION.format(folder=self.folder.name, port=self.port))
        self.process = subprocess.Popen(
            ["nats-server", "-c", str(self.file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = Output(self.process.stdout)
        found = self.output.wait_for(r"Listening for MQTT clients on mqtt://127\.0\.0\.1:(\d+)\n")
        if not found or not self.output.wait_for("Server is ready"):
            self.kill()
            raise AssertionError(f"NATS does not start: {self.output.text()}")
        self.port = int(found[1])

    def ready(self):
        self.reader = MqttReader(self.port, V3, "reader")

    @property
    def urls(self):
        return [f"mqtt://127.0.0.1:{self.port}"]

    @property
    def arrivals(self):
        return self.reader.arrivals

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.output.rest()

    def go_away(self):
        self.kill()

    def come_back(self):
        """At the port where it was."""
        self._start()

    def strike(self, sites):
        hang(self.process, sites)
        return "it hung"

    def remarks(self, _wanted):
        return None

    def text(self):
        return self.output.text()

    def end(self):
        if self.reader:
            self.reader.disconnect()
        self.kill()
        self.folder.cleanup()
