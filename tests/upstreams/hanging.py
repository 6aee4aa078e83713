"""A broker that is there and says nothing: what a gateway has sent is neither acknowledged nor refused."""

import signal


def hang(process, sites):
    """It does, until every gateway has given up its connection."""
    before = [site.bridge()["counters"]["stalled"] for site in sites]
    process.send_signal(signal.SIGSTOP)
    for site, count in zip(sites, before):
        site.wait_until(lambda bridge: bridge["counters"]["stalled"] > count, "tired of waiting")
    process.send_signal(signal.SIGCONT)
