"""What comes out at the far end of a bridge, and what it says about order and repetition."""

import threading

# A broker that elects leaders may be silent for a while. Only a failure waits this long.
PATIENCE = 60


class Arrivals:
    """Each message that a reader was given: who sent it, its number, and whether it came as backlog. Readers add from
    threads of their own.

    `is_again`: the broker says that it delivers the message another time. It may have been lost on its way to the
    reader before, and then comes when it comes, so that it says nothing about the order in which gateways sent."""

    def __init__(self):
        self.all = []
        self.distinct = set()
        self.backlog = set()
        self.changed = threading.Condition()

    def add(self, payload, is_backlog, is_again=False):
        """A payload of the rig's sender: its name and a number."""
        name, number = payload.decode().split()
        message = (name, int(number))
        with self.changed:
            self.all.append((message, is_backlog, is_again))
            self.distinct.add(message)
            if is_backlog:
                self.backlog.add(message)
            self.changed.notify_all()

    def wait_until(self, condition, what):
        """Until it is true; it is in vain when nothing has come for a long time."""
        with self.changed:
            while not condition():
                if not self.changed.wait(PATIENCE):
                    raise AssertionError(f"{what}: {len(self.distinct)} messages came, and no more")

    def wait_for_all(self, wanted):
        """Those of `wanted` that do not come, for which it waits a long time."""
        try:
            self.wait_until(lambda: wanted <= self.distinct, "all that was acknowledged")
        except AssertionError:
            pass
        with self.changed:
            return wanted - self.distinct

    def repeated(self):
        """How many more there were than were sent."""
        return len(self.all) - len(self.distinct)

    def disorder(self):
        """Pairs of one sender and one lane of which the later message came first. What comes again is no news: each
        message counts once in a lane."""
        found = []
        newest = {}
        seen = set()
        for (name, number), is_backlog, is_again in self.all:
            if is_again or (name, number, is_backlog) in seen:
                continue
            seen.add((name, number, is_backlog))
            before = newest.get((name, is_backlog), -1)
            if number < before:
                found.append((name, before, number, "backlog" if is_backlog else "live"))
            newest[name, is_backlog] = max(before, number)
        return found
