"""Debian's mosquitto as a broker, on ports of the loopback that were free just now."""

import pathlib
import subprocess
import tempfile

from output import Output
from ports import free_ports

TRIES = 10
# As root it would become another user, who may not read certificates of ours; as anybody else it stays.
GENERAL = """
user root
allow_anonymous true
persistence false
sys_interval 0
set_tcp_nodelay true
log_type error
log_type warning
log_type information
"""


class MosquittoBroker:
    """Running from construction to the end of the context. `listeners`: what its configuration says of each, by name;
    `general`: of all."""

    def __init__(self, general="", **listeners):
        self.folder = tempfile.TemporaryDirectory(prefix="fieldgate-mosquitto.")
        file = pathlib.Path(self.folder.name) / "mosquitto.conf"
        # Somebody else may take a port that is free.
        for _ in range(TRIES):
            self.ports = free_ports(listeners)
            listening = [f"listener {self.ports[name]} 127.0.0.1\n{more}\n" for name, more in listeners.items()]
            file.write_text(GENERAL + general + "".join(listening))
            self.process = subprocess.Popen(
                ["mosquitto", "-c", str(file)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            self.output = Output(self.process.stdout)
            if self.output.wait_for(r"mosquitto version .* running$"):
                return
            self.process.wait()
            said = self.output.rest()
        self.folder.cleanup()
        raise AssertionError(f"mosquitto does not start: {said}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.output.rest()
        self.folder.cleanup()
