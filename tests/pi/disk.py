"""A disk for a guest, over NBD, that can lose its power: what was written and not flushed is then there, gone, or half there,
sector by sector, as chance has it. A real disk promises no more about its cache."""

import contextlib
import dataclasses
import pathlib
import random
import socket
import struct
import threading

SECTOR = 512

# The NBD protocol's numbers.
INIT_PASSWORD = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY = 0x3E889045565A9
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
ABORT, GO = 2, 7
ACK, INFO, UNSUPPORTED = 1, 3, 0x80000001
INFO_EXPORT = 0
HAS_FLAGS, SEND_FLUSH = 1, 4
REQUEST, REPLY = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH = range(4)
INVALID = 22


@dataclasses.dataclass
class Loss:
    """What became of what was not flushed."""

    sectors: int
    kept: int

    def __str__(self):
        return f"{self.sectors} sectors not flushed, {self.kept} of them kept"


class Disk:
    """The bytes of `image`, in memory, at the socket `path`; one guest at a time, whose flushes take up to
    `flush_seconds_max`."""

    def __init__(self, image, path, flush_seconds_max):
        self.flush_seconds_max = flush_seconds_max
        self.bytes = bytearray(image)
        # Since the last flush: what each sector was then, and what was written, in order.
        self.before = {}
        self.written = []
        self.path = pathlib.Path(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.is_off = threading.Event()
        self.is_idle = threading.Event()
        self.is_idle.set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self):
        return f"nbd+unix:///?socket={self.path}"

    def cut_power(self):
        """From now on it neither does anything nor answers; a flush that is under way is not done."""
        self.is_off.set()

    def restore_power(self, chance):
        """After its guest has ended. Each time another part of what was not flushed is lost."""
        self.is_idle.wait()
        self.is_off.clear()
        written, before = self.written, self.before
        for sector, content in before.items():
            self.bytes[sector * SECTOR : (sector + 1) * SECTOR] = content
        # All, none, some, nearly all; of some, each write is lost as a whole, or in part, or not at all.
        kept, share = set(), chance.choice((1.0, 0.0, 0.5, 0.9))
        for offset, content in written:
            chances = share if share in (0.0, 1.0) else chance.choice((0.0, 1.0, share))
            for at in range(0, len(content), SECTOR):
                if chance.random() < chances:
                    self.bytes[offset + at : offset + at + SECTOR] = content[at : at + SECTOR]
                    kept.add((offset + at) // SECTOR)
        self.before, self.written = {}, []
        return Loss(len(before), len(kept))

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.is_idle.clear()
            with connection, connection.makefile("rb") as stream:
                try:
                    if self._negotiate(connection, stream):
                        self._serve(connection, stream)
                except (OSError, EOFError):
                    pass
                with contextlib.suppress(OSError):
                    while self.is_off.is_set() and stream.read1():
                        pass
            self.is_idle.set()

    def _negotiate(self, connection, stream):
        """Whether the guest goes on."""
        connection.sendall(struct.pack(">QQH", INIT_PASSWORD, OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES))
        exactly(stream, 4)
        while True:
            _, option, length = struct.unpack(">QII", exactly(stream, 16))
            exactly(stream, length)

            def reply(kind, data=b"", option=option):
                connection.sendall(struct.pack(">QIII", OPTION_REPLY, option, kind, len(data)) + data)

            if option == GO:
                reply(INFO, struct.pack(">HQH", INFO_EXPORT, len(self.bytes), HAS_FLAGS | SEND_FLUSH))
                reply(ACK)
                return True
            if option == ABORT:
                reply(ACK)
                return False
            reply(UNSUPPORTED)

    def _serve(self, connection, stream):
        while True:
            magic, _, kind, handle, offset, length = struct.unpack(">IHHQQI", exactly(stream, 28))
            if magic != REQUEST:
                raise OSError(f"no request of NBD: {magic:#x}")
            if self.is_off.is_set():
                return
            data, error = b"", 0
            if kind == WRITE:
                self._write(offset, exactly(stream, length))
            elif kind == READ:
                data = self.bytes[offset : offset + length]
            elif kind == FLUSH:
                # One request is served after the other: what was answered before was written before.
                if self.is_off.wait(random.uniform(0.0, self.flush_seconds_max)):
                    return
                self.before, self.written = {}, []
            elif kind == DISCONNECT:
                return
            else:
                error = INVALID
            connection.sendall(struct.pack(">IIQ", REPLY, error, handle) + data)

    def _write(self, offset, content):
        assert offset % SECTOR == 0 and len(content) % SECTOR == 0, "a guest writes whole sectors"
        for sector in range(offset // SECTOR, (offset + len(content)) // SECTOR):
            if sector not in self.before:
                self.before[sector] = bytes(self.bytes[sector * SECTOR : (sector + 1) * SECTOR])
        self.written.append((offset, content))
        self.bytes[offset : offset + len(content)] = content


def exactly(stream, length):
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
