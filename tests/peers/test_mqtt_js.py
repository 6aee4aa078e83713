"""mqtt.js over TCP and over WebSocket against the release binary. The tests themselves are in mqtt_js.cjs."""

import os
import pathlib
import subprocess
import unittest

from program import Gateway

TESTS = pathlib.Path(__file__).with_name("mqtt_js.cjs")
SECONDS_MAX = 300
LISTENER = """
[listener.both]
bind = "127.0.0.1:0"
protocols = ["mqtt", "websocket"]
websocket = { path = "/mqtt" }
"""


class MqttJs(unittest.TestCase):
    def test_everything_that_it_has_of_mqtt(self):
        with Gateway([os.environ["FIELDGATE"]], LISTENER) as gateway:
            port = gateway.wait_for(r"listening name=both address=127\.0\.0\.1:(\d+)\n")[1]
            addresses = {"TCP": f"mqtt://127.0.0.1:{port}", "WS": f"ws://127.0.0.1:{port}/mqtt"}
            done = subprocess.run(
                ["node", str(TESTS)],
                env=os.environ | addresses,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS_MAX,
            )
        self.assertEqual(done.returncode, 0, done.stdout)
        # In a file that is not there, or has no tests, nothing fails either.
        self.assertRegex(done.stdout, r"pass 50\b", done.stdout)


if __name__ == "__main__":
    unittest.main()
