"""The README's page in a real browser: it subscribes by WebSocket at the README's listener, and pages of strangers do not."""

import functools
import http.server
import json
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import unittest

from chromium import Chromium
from program import Gateway

PROJECT = pathlib.Path(__file__).parents[2]
FIELDGATE = os.environ["FIELDGATE"]
LIBRARY = pathlib.Path(os.environ["NODE_PATH"]) / "mqtt" / "dist" / "mqtt.min.js"
PORT = "9001"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", (PROJECT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def listener():
    """That of the README for pages, at a port that is free; and one that names whom it takes."""
    [block] = [block for block in blocks("toml") if "[listener.pages]" in block and "[gateway]" not in block]
    pages = "[listener.pages]\n" + block.split("[listener.pages]\n")[1].split("\n[")[0] + "\n"
    assert f":{PORT}" in pages, pages
    return pages.replace(f":{PORT}", ":0")


def connects(address):
    """What becomes of a WebSocket to there, as an expression for a page."""
    return f"""new Promise((resolve) => {{
        const socket = new WebSocket({json.dumps(address)}, "mqtt");
        socket.onopen = () => resolve("open");
        socket.onerror = () => resolve("refused");
    }})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class ThePage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = cls.enterClassContext(Chromium())
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="fieldgate-browser.")))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        cls.web = server.server_port
        named = f"""
[listener.named]
bind = "127.0.0.1:0"
protocols = ["mqtt", "websocket"]
websocket = {{ path = "/mqtt", origins = ["http://localhost:{cls.web}"] }}
"""
        cls.gateway = cls.enterClassContext(Gateway([FIELDGATE], listener() + named))
        cls.ports = {
            name: cls.gateway.wait_for(rf"listening name={name} address=127\.0\.0\.1:(\d+)\n")[1] for name in ("pages", "named")
        }
        [page] = blocks("html")
        (folder / "index.html").write_text(page.replace(f":{PORT}", f":{cls.ports['pages']}"))
        (folder / "mqtt.min.js").write_bytes(LIBRARY.read_bytes())

    def publish(self, topic, text):
        subprocess.run(
            [FIELDGATE, "pub", "-p", str(self.gateway.port), "-q", "1", "-r", "-t", topic, "-m", text], check=True, timeout=60
        )

    def test_it_shows_what_is_retained_and_what_comes(self):
        self.publish("shed/greenhouse/temperature", "21.4")
        page = self.browser.open(f"http://127.0.0.1:{self.web}/")
        page.wait_for("document.body?.innerText.includes('shed/greenhouse/temperature: 21.4')")
        self.publish("shed/greenhouse/temperature", "21.9")
        page.wait_for("document.body?.innerText.includes('shed/greenhouse/temperature: 21.9')")
        self.assertNotIn("21.4", page.evaluate("document.body.innerText"))

    def test_a_page_of_another_host_is_refused(self):
        # The same page by another name: what counts is where the browser has it from.
        page = self.browser.open(f"http://localhost:{self.web}/")
        address = f"ws://127.0.0.1:{self.ports['pages']}/mqtt"
        self.assertEqual(page.evaluate(connects(address)), "refused")
        self.gateway.wait_for("[Oo]rigin")

    def test_a_listener_that_names_origins_takes_those_only(self):
        address = f"ws://127.0.0.1:{self.ports['named']}/mqtt"
        for host, expected in (("localhost", "open"), ("127.0.0.1", "refused")):
            with self.subTest(host=host):
                page = self.browser.open(f"http://{host}:{self.web}/")
                self.assertEqual(page.evaluate(connects(address)), expected)


if __name__ == "__main__":
    unittest.main()
