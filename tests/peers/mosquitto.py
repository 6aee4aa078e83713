"""mosquitto's own clients. What does not end by itself in time fails."""

import re
import subprocess

from output import Output

SECONDS_MAX = 60


class Mosquitto:
    """The clients of one version of MQTT, of the broker at this port of the loopback."""

    def __init__(self, port, version):
        self.broker = ("-h", "127.0.0.1", "-p", str(port), "-V", version)

    def pub(self, *arguments, lines=None):
        """mosquitto_pub, which has to succeed."""
        text = None if lines is None else "".join(f"{line}\n" for line in lines)
        run("mosquitto_pub", *self.broker, *arguments, input=text)

    def sub(self, *arguments):
        """What mosquitto_sub prints until it ends by itself."""
        return run("mosquitto_sub", *self.broker, "-W", str(SECONDS_MAX), *arguments)

    def rr(self, *arguments):
        """What mosquitto_rr, which asks something, gets for an answer."""
        return run("mosquitto_rr", *self.broker, "-W", str(SECONDS_MAX), *arguments)

    def subscriber(self, *arguments):
        return Subscriber(*self.broker, *arguments)


class Subscriber:
    """mosquitto_sub in the background, subscribed as soon as the constructor returns."""

    def __init__(self, *arguments):
        # -d makes it say when it has subscribed.
        command = ("stdbuf", "-oL", "mosquitto_sub", "-d", "-W", str(SECONDS_MAX), *arguments)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.output = Output(self.process.stdout)
        self.wait_for("^Subscribed")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        """It is gone without a DISCONNECT."""
        self.process.kill()
        self.process.wait()
        self.output.rest()

    def wait_for(self, pattern, count=1):
        """The first match in what it prints, debug lines included, of which there have to be `count`."""
        found = self.output.wait_for(pattern, count)
        if not found:
            self.kill()
            raise AssertionError(f"mosquitto_sub did not print {pattern} {count} times, but: {self.output.text()}")
        return found

    def messages(self):
        """Those that came until it ended by itself, of one that tells them from debug lines: `-F message…`."""
        return re.findall("^message ?(.*)$", self.output.rest(), re.MULTILINE)


def run(*command, **how):
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=2 * SECONDS_MAX, **how)
    except subprocess.CalledProcessError as failure:
        raise AssertionError(f"{failure}: {failure.stdout}{failure.stderr}") from None
    return done.stdout
