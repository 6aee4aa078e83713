"""One test for all versions and qualities of service: each combination is a subtest, with a topic of its own."""

import functools


def for_each(versions, qualities=(0, 1, 2)):
    """Calls the test with `version`, `qos` and `topic`. `versions` maps how a version is shown to what the client calls
    it."""

    def decorate(test):
        @functools.wraps(test)
        def run(self):
            for name, version in versions.items():
                for qos in qualities:
                    with self.subTest(version=name, qos=qos):
                        test(self, version, qos, f"peers/{test.__name__}/{name}/{qos}")

        return run

    return decorate
