"""fieldgate and Debian's mosquitto get the same sequences, and the table explains what they do differently.

RIVALS=FIRST-LAST plays other sequences than the first.
"""

import contextlib
import os
import unittest

import differences
from rivals import Rivals

SEEDS = os.environ.get("RIVALS", "1-1500")


class Sequences(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = cls.enterClassContext(contextlib.ExitStack())
        cls.rivals = Rivals(cls.stack)

    @classmethod
    def tearDownClass(cls):
        print(cls.rivals.report())

    def play(self, seed):
        found = self.rivals.play(seed)
        told = "\n".join(map(str, found))
        self.assertFalse(found, f"replay it with tests/rivals/rivals.py {seed}:\n{told}")

    def test_the_table_explains_every_difference(self):
        first, last = map(int, SEEDS.split("-"))
        for seed in range(first, last + 1):
            with self.subTest(seed=seed):
                self.play(seed)

    def test_every_row_of_the_table_is_needed(self):
        for row in filter(lambda row: row.seed, differences.table()):
            with self.subTest(row=row.id):
                self.play(row.seed)
                self.assertIn(row.seed, self.rivals.used(row), f"sequence {row.seed} does not meet it any more")


if __name__ == "__main__":
    unittest.main()
