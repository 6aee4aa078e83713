"""A network between two network namespaces, that loses, delays, reorders and is cut: a TUN device in each, and between them
this process, packet by packet. Kernels that were built without netem have TUN devices all the same."""

import contextlib
import fcntl
import heapq
import os
import select
import struct
import subprocess
import threading
import time

HERE, THERE = "10.77.0.1", "10.77.0.2"

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
PACKET_BYTES_MAX = 2048


def command(*words):
    subprocess.run(list(map(str, words)), check=True)


class Link:
    """From THIS namespace to one that it makes. `inside` is what goes before a command that is to run there."""

    def __init__(self, chance, loss, delay):
        self.chance, self.loss, self.delay = chance, loss, delay
        self.is_cut = False
        self.carried = self.lost = self.cuts = 0
        # Lives as long as its input, so that it ends with us.
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "ip link set lo up && echo ready && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout.readline() == b"ready\n", "no network namespace"
        self.inside = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--"]
        self.ends = [tun("here"), tun("there")]
        command("ip", "link", "set", "there", "netns", self.holder.pid)
        command("ip", "address", "add", f"{HERE}/30", "dev", "here")
        command("ip", "link", "set", "here", "up")
        command(*self.inside, "ip", "address", "add", f"{THERE}/30", "dev", "there")
        command(*self.inside, "ip", "link", "set", "there", "up")
        self.is_over = False
        self.thread = threading.Thread(target=self._carry)
        self.thread.start()

    def close(self):
        self.is_over = True
        self.thread.join()
        for end in self.ends:
            os.close(end)
        self.holder.stdin.close()
        self.holder.wait()

    @contextlib.contextmanager
    def cut(self):
        """Nothing arrives meanwhile."""
        self.is_cut = True
        self.cuts += 1
        try:
            yield
        finally:
            self.is_cut = False

    def _carry(self):
        # When, in which order it came, where to, what.
        underway, number = [], 0
        while not self.is_over:
            now = time.monotonic()
            while underway and underway[0][0] <= now:
                _, _, end, content = heapq.heappop(underway)
                # It is full, as a network may be.
                with contextlib.suppress(BlockingIOError):
                    os.write(end, content)
            wait = min(0.1, underway[0][0] - now) if underway else 0.1
            readable, _, _ = select.select(self.ends, [], [], wait)
            for end in readable:
                content = os.read(end, PACKET_BYTES_MAX)
                if self.is_cut or self.chance.random() < self.loss:
                    self.lost += 1
                    continue
                self.carried += 1
                number += 1
                other = self.ends[0] if end == self.ends[1] else self.ends[1]
                heapq.heappush(underway, (time.monotonic() + self.chance.uniform(*self.delay), number, other, content))


def tun(name):
    """A device of this name, and the descriptor at which its packets are."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return end
