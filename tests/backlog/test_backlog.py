"""A bridge whose other end was away, measured by the release binary itself: `fieldgate bench bridge`.

What is acknowledged has to arrive, and what waits must not take memory, on any machine. How fast it goes out against what is
live is printed and not judged here: on a machine with other work to do that says more of the other work."""

import json
import os
import subprocess
import unittest

MESSAGES = int(os.environ.get("BACKLOG", 300_000))

# With ten million of them.
MEGABYTES_MAX = 40

# Only a failure takes this long.
PATIENCE = 540


class Backlog(unittest.TestCase):
    def test_all_arrives_and_what_waits_takes_no_memory(self):
        found = bench("--messages", str(MESSAGES))
        self.assertEqual(found["messages"], MESSAGES)
        self.arrived(found)

    def arrived(self, found):
        run, = found["runs"]
        for part in ("live", "queued", "drained"):
            print(f"{part}: {run[part]['count']} messages, {run[part]['per_second']:.0f} a second", flush=True)
        beyond = (run["rss_waiting"] - run["rss_idle"]) / 1e6
        print(f"drained / live: {found['drained_to_live']:.2f}; {beyond:.1f} MB beyond idle, at most "
              f"{(run['rss_peak'] - run['rss_idle']) / 1e6:.1f}; {found['repeated']} came again", flush=True)
        self.assertEqual(run["queued"]["count"], found["messages"])
        self.assertEqual(run["drained"]["count"], found["messages"])
        self.assertEqual(found["missing"], 0)
        self.assertLessEqual(beyond, MEGABYTES_MAX)


def bench(*options):
    command = [os.environ["FIELDGATE"], "bench", "bridge", "--json", *options]
    ended = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE, check=False)
    # 1: something was missed, which is in what it says; else it could not measure.
    if ended.returncode not in (0, 1) or not ended.stdout:
        raise AssertionError(f"exit status {ended.returncode}")
    return json.loads(ended.stdout)


if __name__ == "__main__":
    unittest.main()
