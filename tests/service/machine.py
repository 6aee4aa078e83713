"""A machine whose PID 1 is systemd: processes in namespaces of their own, on a file system of unpacked Debian packages.
It shares this machine's kernel and the network of whoever starts it, so that is to be a network namespace too."""

import contextlib
import os
import pathlib
import subprocess
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent

# Only a failure waits this long.
PATIENCE = 60
# Of a command in the machine.
COMMAND_SECONDS_MAX = 60


class MachineFailure(AssertionError):
    """The machine did not do what was asked of it."""


class Machine:
    """Booted as soon as the constructor returns; ended with all its processes by close(), or as a context."""

    def __init__(self, packages):
        self.closing = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            work = tempfile.mkdtemp(prefix="fieldgate-machine.")
            undo.callback(os.rmdir, work)
            group = own_control_group()
            undo.callback(remove_control_group, group)
            self.console = Console()
            undo.callback(self.console.close)
            # In its control group before the namespaces are made, so that this is the root of what it sees.
            outer = subprocess.Popen(
                ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec unshare --fork --kill-child "$@"', group,
                 "--pid", "--mount", "--uts", "--ipc", "--cgroup", HERE / "boot", packages, work, self.console.name],
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            undo.callback(end, outer)
            try:
                self.first = self._first_process(outer)
                self._boot()
            except (OSError, MachineFailure) as error:
                raise MachineFailure(f"the machine has not booted: {error}: {self.console.text()}") from error
            self.closing = undo.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        if failure and issubclass(failure, Exception):
            print("the machine's console and journal:", self.console.text(), flush=True)
            print(self.run("journalctl --no-pager --lines=200", check=False), flush=True)
        self.close()

    def close(self):
        self.closing.close()

    def _first_process(self, outer):
        """The process outside that is PID 1 inside."""
        children = pathlib.Path(f"/proc/{outer.pid}/task/{outer.pid}/children")

        def first():
            if outer.poll() is not None:
                raise MachineFailure(f"no namespaces: exit status {outer.returncode}")
            return children.read_text().split()

        return int(self.wait_for("the machine's first process", first)[0])

    def _boot(self):
        comm = pathlib.Path(f"/proc/{self.first}/comm")
        self.wait_for("systemd to be started", lambda: comm.read_text().strip() == "systemd")
        self.wait_for("systemd to listen", lambda: self.path("/run/systemd/private").exists())
        state = self.run("systemctl is-system-running --wait", check=False).strip()
        if state != "running":
            raise MachineFailure(f"the machine is {state}: {self.run('systemctl --failed --no-pager', check=False)}")

    def run(self, command, *, check=True, user=None):
        """What a line of shell in the machine prints. `user`: as `USER:GROUP`, without any other group."""
        become = []
        if user:
            name, group = user.split(":")
            become = ["setpriv", f"--reuid={name}", f"--regid={group}", "--clear-groups"]
        ended = subprocess.run(
            ["nsenter", f"--target={self.first}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root",
             *become, "/bin/bash", "-c", command],
            env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin", "HOME": "/root"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=COMMAND_SECONDS_MAX,
        )  # fmt: skip
        if check and ended.returncode != 0:
            raise MachineFailure(f"{command}: exit status {ended.returncode}: {ended.stdout}")
        return ended.stdout

    def path(self, inside):
        """Where a path in the machine is for us."""
        return pathlib.Path(f"/proc/{self.first}/root") / inside.lstrip("/")

    def wait_for(self, what, condition):
        """Until the condition holds: what it returns. There is no event for most of what a service manager does."""
        deadline = time.monotonic() + PATIENCE
        while True:
            result = condition()
            if result:
                return result
            if time.monotonic() > deadline:
                raise MachineFailure(f"after {PATIENCE} s still waiting for {what}")
            time.sleep(0.05)


class Console:
    """A terminal, and what was written to it."""

    def __init__(self):
        self.ours, theirs = os.openpty()
        self.theirs = theirs
        self.name = os.ttyname(theirs)
        self.written = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while True:
                self.written += os.read(self.ours, 65536)

    def text(self):
        return self.written.decode(errors="replace").replace("\r", "")

    def close(self):
        # Reading ends with the last writer.
        os.close(self.theirs)
        self.reader.join()
        os.close(self.ours)


def own_control_group():
    """A new control group of the unified hierarchy, below our own."""
    mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    (mounted, *_) = [place for _, place, kind, *_ in mounts if kind == "cgroup2"]
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    (own,) = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    return tempfile.mkdtemp(prefix="fieldgate-machine.", dir=mounted + own)


def remove_control_group(group):
    """With those that systemd has made in it. They are empty, or become so as the last processes are reaped."""
    deadline = time.monotonic() + PATIENCE
    for folder, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                os.rmdir(folder)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def end(process):
    """`unshare` takes PID 1 with it, and the kernel everything else in its namespace."""
    process.kill()
    process.wait()
