"""The first process of a node: puts its files and control groups in place, then keeps its namespaces and reaps orphans.

    python first.py NAME HIERARCHIES OWN COPIED READY

Imports nothing of the project. HIERARCHIES: JSON of what `cgroups` made. OWN and COPIED: directories, with colons
between them, that it has for itself, in memory; empty, or as this computer has them.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CLONE_NEWCGROUP = 0x02000000  # unshare(2)
ROOM = "16g"  # of memory for files, at most
# Settings of the whole computer that a kubelet wants so and would change: here they look as if they were.
SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def mount(*arguments: str) -> None:
    subprocess.run(["mount", "--no-mtab", *arguments], check=True)


def join(group: str) -> None:
    (Path(group) / "cgroup.procs").write_text("0")


def own(place: str, *, is_copied: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        mount("-t", "tmpfs", "-o", f"mode=755,size={ROOM}", "node", directory)
        if is_copied:
            shutil.copytree(place, directory, symlinks=True, dirs_exist_ok=True)
        mount("--move", directory, place)


def main() -> None:
    name, hierarchies, ready = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[5])
    empty, copied = (places.split(":") for places in sys.argv[3:5])
    for hierarchy in hierarchies:
        join(hierarchy["own"])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWCGROUP) != 0:
        sys.exit(f"no cgroup namespace: {os.strerror(ctypes.get_errno())}")
    for hierarchy in hierarchies:
        # What it has joined is the root of what it sees from now on.
        kind, place, named = hierarchy["kind"], hierarchy["mount"], hierarchy["options"]
        subprocess.run(["umount", place], check=True)
        mount("-t", kind, *(["-o", named] if named else []), kind, place)
        if kind == "cgroup2":
            join(f"{place}/{hierarchy['joined']}")
            (Path(place) / "cgroup.subtree_control").write_text(hierarchy["enabled"])
    for place in filter(None, (*empty, *copied)):
        own(place, is_copied=place in copied)
    for setting, value in SETTINGS.items():
        file = Path("/run") / setting.replace("/", "-")
        file.write_text(f"{value}\n")
        mount("--bind", str(file), f"/proc/sys/{setting}")
    socket.sethostname(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    ready.touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
