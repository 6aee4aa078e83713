"""The guests' initial RAM file system: busybox, the program with its libraries, the kernel modules that a machine
needs, all in one uncompressed cpio archive (the emulated CPU unpacks slowly, and the file lives for seconds)."""

import lzma
import os
import pathlib
import stat
import subprocess

# Where Debian's cross compiler keeps the libraries of its target.
LIBRARIES = pathlib.Path("/usr/aarch64-linux-gnu/lib")
LOADER = "ld-linux-aarch64.so.1"


class Archive:
    """A cpio archive of the kind the kernel unpacks ("newc")."""

    def __init__(self):
        self.parts = []
        self.inode = 0
        self.folders = set()

    def folder(self, name):
        parent = os.path.dirname(name)
        if parent:
            self.folder(parent)
        if name not in self.folders:
            self.folders.add(name)
            self.entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name, content, mode=0o644):
        self.folder(os.path.dirname(name))
        self.entry(name, stat.S_IFREG | mode, content)

    def device(self, name, major, minor):
        self.folder(os.path.dirname(name))
        self.entry(name, stat.S_IFCHR | 0o600, b"", major, minor)

    def entry(self, name, mode, content, major=0, minor=0):
        self.inode += 1
        name = name.encode() + b"\0"
        links, time, checksum = 1, 0, 0
        fields = (self.inode, mode, 0, 0, links, time, len(content), 0, 0, major, minor, len(name), checksum)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self.parts += [padded(header + name), padded(content)]

    def write(self, path):
        self.entry("TRAILER!!!", 0, b"")
        pathlib.Path(path).write_bytes(b"".join(self.parts))


def padded(content):
    return content + b"\0" * (-len(content) % 4)


def build(path, *, guest_files, modules, init, program, files):
    """Writes the archive to `path`. `program` becomes /bin/fieldgate; `files` maps further names to contents."""
    archive = Archive()
    for name in ("bin", "dev", "etc", "lib/modules", "proc", "sys", "tmp"):
        archive.folder(name)
    # For the kernel, which opens it before anything is mounted.
    archive.device("dev/console", 5, 1)
    archive.file("bin/busybox", (guest_files / "bin/busybox").read_bytes(), 0o755)
    archive.file("init", pathlib.Path(init).read_bytes(), 0o755)
    archive.file("bin/fieldgate", pathlib.Path(program).read_bytes(), 0o755)
    for library in libraries_of(program):
        archive.file(f"lib/{library}", (LIBRARIES / library).read_bytes(), 0o755)
    paths = in_loading_order(module_folder(guest_files), modules)
    for module in paths:
        archive.file(f"lib/modules/{plain_name(module)}", uncompressed(module))
    archive.file("lib/modules/order", "".join(f"{plain_name(module)}\n" for module in paths).encode())
    for name, content in files.items():
        archive.file(name, content)
    archive.write(path)


def libraries_of(program):
    """The shared libraries that a program needs, with those that they need themselves."""
    found, ahead = {LOADER}, [program]
    while ahead:
        dynamic = subprocess.run(
            ["aarch64-linux-gnu-readelf", "--dynamic", ahead.pop()], capture_output=True, text=True, check=True
        ).stdout
        for line in dynamic.splitlines():
            if "(NEEDED)" in line:
                library = line.split("[")[1].rstrip("]")
                if library not in found:
                    found.add(library)
                    ahead.append(LIBRARIES / library)
    return sorted(found)


def module_folder(guest_files):
    (folder,) = (guest_files / "lib/modules").iterdir()
    if not (folder / "modules.dep").exists():
        subprocess.run(["depmod", "--basedir", guest_files, folder.name], check=True)
    return folder


def in_loading_order(folder, wanted):
    """The files of the wanted modules, each after those that it depends on. What is built into the kernel needs none."""
    dependencies = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        module, _, needs = line.partition(":")
        dependencies[module] = needs.split()
    by_name = {canonical(module): module for module in dependencies}
    built_in = {canonical(module) for module in (folder / "modules.builtin").read_text().splitlines()}

    order = []
    for name in map(canonical, wanted):
        if name in built_in:
            continue
        if name not in by_name:
            raise SystemExit(f"the kernel {folder.name} has no module {name}")
        module = by_name[name]
        # depmod names the nearest dependency first.
        for needed in [*reversed(dependencies[module]), module]:
            if needed not in order:
                order.append(needed)
    return [folder / module for module in order]


def canonical(path):
    return plain_name(path).removesuffix(".ko").replace("-", "_")


def plain_name(path):
    return os.path.basename(path).removesuffix(".xz")


def uncompressed(module):
    return lzma.open(module).read() if module.suffix == ".xz" else module.read_bytes()
