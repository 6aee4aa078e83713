"""mosquitto, which speaks 5.0: with a reader of its own, and two that share what comes."""

import signal

from arrivals import Arrivals
from client import V5
from hanging import hang
from mosquitto_broker import MosquittoBroker
from reader import MqttReader

# As many messages as come may wait for a reader.
GENERAL = """
max_queued_messages 0
"""


class Mosquitto:
    """Starts when it is made."""

    name = "mosquitto"
    version = "5.0"
    profile = "generic"

    def __init__(self):
        self.broker = MosquittoBroker(GENERAL, mqtt="")
        self.readers = []
        self.shared = Arrivals()

    def ready(self):
        port = self.broker.ports["mqtt"]
        self.readers.append(MqttReader(port, V5, "reader"))
        self.readers += [MqttReader(port, V5, f"shared-{number}", self.shared, "readers") for number in (1, 2)]

    @property
    def urls(self):
        return [f"mqtt://127.0.0.1:{self.broker.ports['mqtt']}"]

    @property
    def arrivals(self):
        return self.readers[0].arrivals

    def go_away(self):
        """It is there and says nothing, as behind a link that is cut."""
        self.broker.process.send_signal(signal.SIGSTOP)

    def come_back(self):
        self.broker.process.send_signal(signal.SIGCONT)

    def strike(self, sites):
        """Killed it would not have what it has acknowledged."""
        hang(self.broker.process, sites)
        return "it hung"

    def remarks(self, wanted):
        """What the two that share have between them: each message goes to one of them."""
        missing = self.shared.wait_for_all(wanted)
        if missing:
            raise AssertionError(f"{len(missing)} messages came to neither of two that share")
        first, second = (reader.count for reader in self.readers[1:])
        return f"two readers that share had {first} and {second} of them"

    def text(self):
        return self.broker.output.text()

    def end(self):
        self.broker.process.send_signal(signal.SIGCONT)
        for reader in self.readers:
            reader.disconnect()
        self.broker.__exit__()
