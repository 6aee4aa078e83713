"""Chromium without a window, driven over a pair of pipes by its DevTools protocol: JSON objects, each ended by a NUL."""

import json
import os
import subprocess
import tempfile

# Only a failure waits this long.
PATIENCE = 60


class Chromium:
    """Running from construction to the end of the context."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="fieldgate-browser.", ignore_cleanup_errors=True)
        theirs_in, self.to = os.pipe()
        self.back, theirs_out = os.pipe()

        def take_3_and_4():
            # Above them first, so that neither overwrites the other.
            ends = os.dup2(theirs_in, 20), os.dup2(theirs_out, 21)
            for end, wanted in zip(ends, (3, 4)):
                os.dup2(end, wanted)

        self.process = subprocess.Popen(
            [
                "chromium",
                "--headless",
                # There is none for root.
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--no-proxy-server",
                "--remote-debugging-pipe",
                f"--user-data-dir={self.folder.name}",
            ],
            preexec_fn=take_3_and_4,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.came, self.calls = b"", 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.to)
        try:
            # It ends when nobody drives it any more.
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.back)
            self.folder.cleanup()

    def open(self, url):
        """A page in a tab of its own, which may still be loading."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        failure = page.call("Page.navigate", url=url).get("errorText")
        assert not failure, f"{url}: {failure}"
        return page

    def call(self, method, session=None, **parameters):
        self.calls += 1
        call = {"id": self.calls, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self.to, json.dumps(call).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.calls:
                assert "error" not in answer, f"{method}: {answer}"
                return answer["result"]

    def _next(self):
        while b"\0" not in self.came:
            came = os.read(self.back, 65536)
            assert came, f"chromium has ended: {self.process.wait()}"
            self.came += came
        message, _, self.came = self.came.partition(b"\0")
        return json.loads(message)


class Page:
    def __init__(self, browser, session):
        self.browser, self.session = browser, session

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def evaluate(self, expression):
        """What an expression comes to in the page: that of a promise, once it is kept."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, condition):
        """Until an expression is true, which is looked at whenever the document changes."""
        watched = f"""new Promise((resolve, reject) => {{
            const look = () => {{ if ({condition}) resolve(true); }};
            new MutationObserver(look).observe(document, {{ subtree: true, childList: true, characterData: true }});
            setTimeout(() => reject(new Error(document.documentElement.outerHTML)), {PATIENCE * 1000});
            look();
        }})"""
        self.evaluate(watched)
