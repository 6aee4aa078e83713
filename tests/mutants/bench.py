"""What the tools of this folder share: a copy of the tree in the cache, in which mutants are built."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# In a copy that holds several mutants: which one is on, read once.
SWITCH = """
#[doc(hidden)]
pub fn mutant(number: u32) -> bool {
    static ON: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let read = || std::env::var("MUTANT").ok().and_then(|on| on.parse().ok()).unwrap_or(0);
    *ON.get_or_init(read) == number
}
"""


class Bench:
    """The copy of the tree, and the tests of it."""

    def __init__(self, name: str):
        cache = pathlib.Path(os.environ.get("FIELDGATE_CACHE") or ROOT / ".fieldgate-cache").resolve()
        folder = cache / name
        folder.mkdir(parents=True, exist_ok=True)
        # One at a time in this folder; the lock goes with the process.
        self.lock = (folder / "lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.tree = folder / "tree"
        self.environment = dict(
            os.environ,
            # What one of the tools has built of the dependencies is good for the others.
            CARGO_TARGET_DIR=str(cache / "mutants" / "target"),
            CARGO_INCREMENTAL="1",
            # What the tests see by themselves is to be shown, without the program's own assertions.
            CARGO_PROFILE_DEV_DEBUG_ASSERTIONS="false",
            CARGO_PROFILE_DEV_OVERFLOW_CHECKS="true",
            CARGO_PROFILE_DEV_DEBUG="0",
            RUSTFLAGS="--cap-lints=allow",
            RUST_BACKTRACE="0",
        )

    def copy_tree(self, change=lambda name, content: content) -> None:
        """What Git knows of here, as it is now, each file as `change` makes it of its name and content. A file
        that is as it was before keeps its time, for Cargo's sake."""
        listing = subprocess.run(
            ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True, capture_output=True,
        ).stdout.decode()
        names = {name for name in listing.split("\0") if name and (ROOT / name).is_file()}
        for name in names:
            source, copy = ROOT / name, self.tree / name
            content = change(name, source.read_bytes())
            if not copy.is_file() or copy.read_bytes() != content:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
                shutil.copymode(source, copy)
        for copy in self.tree.rglob("*"):
            if copy.is_file() and str(copy.relative_to(self.tree)) not in names:
                copy.unlink()

    def call(self, command: list, seconds: int, **more: str) -> subprocess.CompletedProcess | None:
        """Runs a command with everything that it starts, and ends them all if it takes too long: `None`."""
        process = subprocess.Popen(
            command, cwd=self.tree, env=dict(self.environment, **more), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return None
        return subprocess.CompletedProcess(command, process.returncode, output)

    def binaries(self, targets: set[str]) -> dict[str, str]:
        """The test programs of these targets, of which `lib` is one."""
        chosen = [part for name in sorted(targets - {"lib"}) for part in ("--test", name)]
        chosen += ["--lib"] if "lib" in targets else []
        command = ["cargo", "test", "--quiet", "--locked", "--no-run", "--message-format=json", *chosen]
        built = self.call(command, 3000)
        if built is None:
            sys.exit("the build never ended")
        messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
        if built.returncode != 0:
            rendered = [it["message"]["rendered"] for it in messages if it.get("message")]
            sys.exit("".join(rendered)[-6000:] or built.stdout[-6000:])
        found = {}
        for artifact in messages:
            if artifact.get("executable") and artifact["profile"]["test"]:
                kind = artifact["target"]["kind"][0]
                found["lib" if kind != "test" else artifact["target"]["name"]] = artifact["executable"]
        return found


def first_complaint(output: str) -> tuple[str, str]:
    """Where the first panic was, and what it said."""
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if "panicked at" in line and number + 1 < len(lines):
            return line.partition("panicked at ")[2].rstrip(":"), lines[number + 1].strip()[:150]
    return "", ""
