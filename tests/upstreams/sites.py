"""Gateways with the configuration that the README shows for more than one, and their clients."""

import pathlib
import re
import threading
import time

from control import PATIENCE, ask
from restarted import Restarted
from sender import Sender

PROJECT = pathlib.Path(__file__).parents[2]
HEADING = "\n## Past one machine\n"
# What the README's `cluster-password` has.
PASSWORD = "of-the-cluster"
SENDERS = 2

# Beside it in conf.d: where a test has its things, and less patience than a site needs.
MORE = """
[broker]
connect_rate = "unlimited"
[bridge.cluster]
reconnect = {{ min = "100ms", max = "1s" }}
stalled_after = "2s"
[listener.local]
bind = "127.0.0.1:0"
[control]
socket = "{folder}/control.sock"
"""


def configuration(folder, number, upstream):
    """The README's, of the gateway with this number and folder, to this upstream."""
    section = (PROJECT / "README.md").read_text().split(HEADING)[1].split("\n## ")[0]
    text = section.split("```toml\n")[1].split("```")[0]
    urls = ", ".join(f'"{url}"' for url in upstream.urls)
    here = {"data_dir": f'"{folder}/data"', "urls": f"[{urls}]", "profile": f'"{upstream.profile}"'}
    for key, value in here.items():
        text, count = re.subn(f"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert count == 1, f"{key} is not a line of the README's configuration"
    assert "site-1" in text, "the README's gateway has another name"
    return text.replace("site-1", f"site-{number}")


class Site:
    """A gateway and those who publish there. Running from construction; `end` takes it down."""

    def __init__(self, program, folder, number, upstream):
        folder.mkdir()
        (folder / "conf.d").mkdir()
        (folder / "conf.d" / "test.toml").write_text(MORE.format(folder=folder))
        secret = folder / "cluster-password"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o600)
        file = folder / "fieldgate.toml"
        file.write_text(configuration(folder, number, upstream))
        self.name = f"site-{number}"
        self.socket = folder / "control.sock"
        self.sent_before = 0
        self.gateway = Restarted(program, file)
        self.senders = [
            Sender(f"{self.name}-{line}", self.gateway.port, f"plant/{line}", 1, count=0)
            for line in range(SENDERS)
        ]

    def bridge(self):
        """How its link is, as the gateway says."""
        return ask(self.socket, "status")["bridges"]["cluster"]

    def wait_until(self, condition, what):
        """The first answer about the link of which `condition` is true."""
        deadline = time.monotonic() + PATIENCE
        while True:
            bridge = self.bridge()
            if condition(bridge):
                return bridge
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: not {what}: {bridge}")
            time.sleep(0.02)

    def wait_until_linked(self):
        return self.wait_until(lambda bridge: bridge["state"] == "up", "linked")

    def sent(self):
        """How many messages went to the upstream, repetitions included."""
        return self.sent_before + self.bridge()["counters"]["sent"]

    def crash(self):
        """Killed, and started again."""
        self.sent_before = self.sent()
        self.gateway.kill()
        self.gateway.start()

    def acknowledged(self):
        """Names and numbers of what the gateway has answered for."""
        return {(sender.name, number) for sender in self.senders for number in range(sender.acknowledged)}

    def text(self):
        return f"{self.name}:\n{self.gateway.output.text()[-8000:]}"

    def end(self):
        self.gateway.kill()


class Load:
    """More messages from everybody, which are under way when it is made."""

    def __init__(self, sites, count):
        self.senders = [sender for site in sites for sender in site.senders]
        self.failures = []
        self.before = self._acknowledged()
        for sender in self.senders:
            sender.count += count // len(self.senders)
        self.threads = [threading.Thread(target=self._run, args=[sender], daemon=True) for sender in self.senders]
        for thread in self.threads:
            thread.start()

    def _run(self, sender):
        try:
            sender.run()
        except AssertionError as failure:
            self.failures.append(failure)

    def _acknowledged(self):
        return sum(sender.acknowledged for sender in self.senders)

    def wait_for(self, count):
        """Until so many of them are acknowledged, or it is over."""
        while self._acknowledged() - self.before < count and any(thread.is_alive() for thread in self.threads):
            for thread in self.threads:
                thread.join(0.002)

    def finish(self):
        """All of them are acknowledged. A sender gives up by itself."""
        for thread in self.threads:
            thread.join()
        if self.failures:
            raise self.failures[0]
