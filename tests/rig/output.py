"""What a process prints, read as it comes, so that a test can wait for it."""

import re
import threading

# Only a failure waits this long.
PATIENCE = 60


class Output:
    """Of a process's pipe, which it reads until everybody has closed it."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.printed = b""
        self.open = True
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            came = self.pipe.read1()
            with self.changed:
                self.printed += came
                self.open = bool(came)
                self.changed.notify_all()
            if not came:
                return

    def text(self):
        """So far."""
        return self.printed.decode(errors="replace")

    def wait_for(self, pattern, count=1):
        """The first match of a regular expression, of which there have to be `count`; None at the end of it all or when
        it takes too long. `^` and `$` are those of a line."""
        matches = []

        def came():
            matches[:] = re.finditer(pattern, self.text(), re.MULTILINE)
            return len(matches) >= count or not self.open

        with self.changed:
            self.changed.wait_for(came, PATIENCE)
        return matches[0] if len(matches) >= count else None

    def rest(self):
        """Everything, when the process has ended."""
        self.reader.join()
        self.pipe.close()
        return self.text()
