"""fieldgate as a process that is killed and started again on the same data."""

import subprocess
import threading

from output import Output

# For one that recovers a journal on a busy machine. Only a failure waits this long.
PATIENCE = 60


class Restarted:
    """`fieldgate run` on this configuration, whose listener `local` is at a port of the loopback that the system
    chooses, another one at each start. Running from construction."""

    def __init__(self, program, file):
        self.program, self.file = program, file
        self.current = None
        self.listens = threading.Event()
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.program, "run", "--config", str(self.file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = Output(self.process.stdout)
        found = self.output.wait_for(r"listening name=local address=127\.0\.0\.1:(\d+)\n")
        if not found:
            self.kill()
            raise AssertionError(f"it did not start: {self.output.text()}")
        self.current = int(found[1])
        self.listens.set()

    def kill(self):
        self.listens.clear()
        self.process.kill()
        self.process.wait()
        self.output.rest()

    def port(self):
        """Where it listens; waits until it does."""
        if not self.listens.wait(PATIENCE):
            raise AssertionError("it does not come back")
        return self.current
