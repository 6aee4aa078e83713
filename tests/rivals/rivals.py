"""fieldgate and mosquitto side by side: the same sequences at both, and each difference explained by the table.

    export FIELDGATE=target/release/fieldgate PYTHONPATH=tests/rig
    python3 tests/rivals/rivals.py SEED        one sequence, with the whole conversation
    python3 tests/rivals/rivals.py FIRST-LAST  many; from 5000 on, every row of the table has to be met
"""

import contextlib
import os
import sys
import time

import differences
from mosquitto_broker import MosquittoBroker
from program import Gateway
from sequences import Sequence
from stage import Stage

# Sequences of a run in which every row of the table has to be met.
LONG_RUN = 5000

# Their limits are the same, so that what is compared is what they do and not what they were told. Mosquitto's defaults,
# where fieldgate's differ.
# Neither keeps anything on a disk, so that what follows a step has come when its pings are answered.
FIELDGATE_CONFIGURATION = """
[broker]
topic_alias_maximum = 10
max_session_expiry = "unlimited"
[broker.durability]
default = "none"
"""
MOSQUITTO_CONFIGURATION = "max_packet_size 1048576\n"


class Rivals:
    """Both brokers, running."""

    def __init__(self, stack):
        gateway = stack.enter_context(Gateway([os.environ["FIELDGATE"]], more=FIELDGATE_CONFIGURATION))
        mosquitto = stack.enter_context(MosquittoBroker(MOSQUITTO_CONFIGURATION, plain=""))
        self.addresses = {"fieldgate": ("127.0.0.1", gateway.port), "mosquitto": ("127.0.0.1", mosquitto.ports["plain"])}
        self.rows = differences.table()
        self.explained, self.ended = {}, {}
        self.seed, self.steps, self.compared = None, 0, 0

    def play(self, seed, trace=None):
        """The differences of a sequence that no row explains. What follows one that leaves the brokers in different states
        is not compared."""
        self.seed, sequence = seed, Sequence(seed)
        stages = {name: Stage(address, sequence.prefix, trace) for name, address in self.addresses.items()}
        shared_topic = f"{sequence.prefix}/a" if sequence.is_shared else None
        self.steps += len(sequence.steps)
        unexplained = []
        try:
            for number, step in enumerate(sequence.steps):
                if trace:
                    trace(f"step {number}: {step.what}")
                got = {}
                for name, stage in stages.items():
                    if trace:
                        trace(f"   {name}")
                    got[name] = stage.play(step)
                self.compared += 1
                choosy = set.union(*(stage.choosy for stage in stages.values()))
                told = differences.told(step, stages["fieldgate"].remarks)
                found = differences.compare(told, step.client, got, sequence.of_connections, choosy, shared_topic)
                goes_on, unexplained = self._explain(found, trace)
                ending = [row for row in self.rows if row.unseen and row.sent.search(told)]
                self._count(ending, self.ended)
                if unexplained or ending or not goes_on:
                    break
            for stage in stages.values():
                for step in sequence.cleanup():
                    stage.play(step)
        finally:
            for stage in stages.values():
                stage.close()
        return unexplained

    def _explain(self, found, trace):
        goes_on, unexplained = True, []
        for difference in found:
            rows, left = differences.explain(difference, self.rows)
            self._count(rows, self.explained)
            goes_on &= all(row.goes_on for row in rows)
            if trace:
                trace(f"   {difference}\n   explained by: {', '.join(row.id for row in rows) or 'nothing'}")
            if left:
                unexplained.append(left)
                if trace:
                    trace(f"   NOT EXPLAINED: {left}")
        return goes_on, unexplained

    def _count(self, rows, where):
        for row in rows:
            where.setdefault(row.id, set()).add(self.seed)

    def used(self, row):
        """The sequences that have met it: that it explains something in, if there are any."""
        return self.explained.get(row.id) or self.ended.get(row.id, set())

    def unused(self):
        return [row.id for row in self.rows if not self.used(row)]

    def report(self):
        lines = [f"{self.compared} of {self.steps} steps compared"]
        for row in self.rows:
            seeds = self.used(row)
            lines.append(f"{len(seeds):6} × {row.id}" + (f", first in {min(seeds)}" if seeds else ""))
        return "\n".join(lines)


def main(which):
    first, _, last = which.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    with contextlib.ExitStack() as stack:
        rivals, failed, started = Rivals(stack), 0, time.monotonic()
        for seed in seeds:
            for difference in rivals.play(seed, None if last else print):
                failed += 1
                print(f"seed {seed}: {difference}", flush=True)
    print(f"{len(seeds)} sequences in {time.monotonic() - started:.0f} s, {failed} differences that no row explains")
    if last:
        print(rivals.report())
    return 1 if failed or (len(seeds) >= LONG_RUN and rivals.unused()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
