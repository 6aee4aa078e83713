"""Whatever is ended at random moments and started again, in a thread of its own, until that is enough."""

import os
import subprocess
import threading
import time

from output import Output

# Only a failure waits this long.
PATIENCE = 120


class Victim:
    """A kind of victim says how it is started (`start`, the port when it listens), and how it is ended (`strike`). It
    lives for `lives` seconds, from and to; one start in five is not even waited for (`begin`)."""

    def __init__(self, chance, lives):
        self.chance, self.lives = chance, lives
        self.strikes = 0
        # Called with the port after each start, before anybody else is told of it.
        self.look = None
        self.failure = None
        self.address = None
        self.listens = threading.Event()
        self.is_over = threading.Event()
        self.is_spared = threading.Event()
        self.is_ended = threading.Event()
        self.thread = threading.Thread(target=self._torment)

    def begin(self):
        """Starts, and is struck down before it has: the seconds that it may take are the victim's affair."""
        raise NotImplementedError

    def start(self):
        """The port where it listens."""
        raise NotImplementedError

    def strike(self):
        """It ends without a warning; what there is to say of that."""
        raise NotImplementedError

    def live(self):
        """It listens."""
        self.address = self.start()
        if self.look:
            self.look(self.address)
        self.listens.set()

    def torment(self):
        """From now on, until `spare`."""
        self.thread.start()

    def port(self):
        """Where it listens; waits until it does."""
        if not self.listens.wait(PATIENCE):
            raise AssertionError("it does not come back")
        if self.failure:
            raise self.failure
        return self.address

    def spare(self):
        """It is running, and stays so."""
        self.is_over.set()
        if self.thread.is_alive():
            self.is_spared.wait()
        if self.failure:
            raise self.failure

    def end(self):
        """For good."""
        self.is_over.set()
        self.is_ended.set()
        if self.thread.is_alive():
            self.thread.join()
        self.strike()

    def _strike(self):
        self.listens.clear()
        told = self.strike()
        self.strikes += 1
        if told:
            print(f"{self.strikes}: {told}", flush=True)

    def _torment(self):
        try:
            while not self.is_over.wait(self.chance.uniform(*self.lives)):
                self._strike()
                while self.chance.random() < 0.2:
                    self.begin()
                    self._strike()
                self.live()
        except Exception as failure:
            self.failure = failure
            # Whoever waits for it hears of that.
            self.listens.set()
        self.is_spared.set()
        # What a thread has started may be bound to end with the thread.
        self.is_ended.wait()


class Process(Victim):
    """The gateway as a process of this machine, with this configuration and further environment. `inside` is what goes
    before the command."""

    def __init__(self, program, file, chance, lives=(), beginning=0.0, inside=(), **environment):
        super().__init__(chance, lives)
        self.command = [*inside, program, "run", "--config", str(file)]
        self.environment = os.environ | environment
        # What is not waited for is ended within so many seconds.
        self.beginning = beginning
        self.process = None

    def run(self):
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = Output(self.process.stdout)

    def begin(self):
        self.run()
        time.sleep(self.chance.uniform(0.0, self.beginning))

    def start(self):
        self.run()
        found = self.output.wait_for(r"listening name=local address=[\d.]+:(\d+)\n")
        if not found:
            raise AssertionError(f"it did not start: {self.output.text()}")
        return int(found[1])

    def strike(self):
        if self.process:
            self.process.kill()
            self.process.wait()
