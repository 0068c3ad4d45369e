"""Control groups of a test's own, one in each hierarchy that this computer has, below the one that the test is in.

A node sees them as roots (a cgroup namespace), so that nothing it does is seen above them.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e.waiting import eventually

_WANTED: Final = frozenset({"cpu", "cpuset", "memory", "pids"})


class NoControlGroups(Exception):
    """They can't be made; the message says why."""


class Hierarchy(NamedTuple):
    """One mount of control groups, and the group that is made for the test in it."""

    mount: str
    kind: str
    """`cgroup` or `cgroup2`."""
    controllers: frozenset[str]
    """Those that it has."""
    options: str
    """What it is mounted with; empty for version 2."""
    own: str
    joined: str
    """Where processes go, below `own`. In version 2 a group that has groups in it may have no processes itself."""

    @property
    def enabled(self) -> str:
        """What version 2 is told, so that groups below have these too."""
        return " ".join(f"+{name}" for name in sorted(self.controllers & _WANTED))


@contextmanager
def made(name: str) -> Iterator[list[Hierarchy]]:
    """Have them for the block; at its end nothing may be running in them any more.

    Raises:
        NoControlGroups: they can't be made.
    """
    found = list(_hierarchies(name))
    there = frozenset[str]().union(*(hierarchy.controllers for hierarchy in found))
    if missing := _WANTED - there:
        raise NoControlGroups(f"a node needs control groups for {', '.join(sorted(missing))}; here are none")
    try:
        for hierarchy in found:
            _make(hierarchy)
        yield found
    finally:
        for hierarchy in found:
            own = Path(hierarchy.own)
            eventually(f"{own} is empty", functools.partial(_remove, own), within=60)


def _make(hierarchy: Hierarchy) -> None:
    own = Path(hierarchy.own)
    try:
        own.mkdir()
        if hierarchy.kind == "cgroup2":
            (own / hierarchy.joined).mkdir()
            (own.parent / "cgroup.subtree_control").write_text(hierarchy.enabled)
        elif "cpuset" in hierarchy.controllers:
            # A new one has no processors, and takes no process.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (own / file).write_text((own.parent / file).read_text())
    except OSError as error:
        raise NoControlGroups(f"no control group for a node can be made in {own.parent}: {error}") from error


def _remove(own: Path) -> bool:
    """Whether it is gone."""
    for directory, _, _ in os.walk(own, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()
    return not own.exists()


def _hierarchies(name: str) -> Iterator[Hierarchy]:
    mine = dict(_mine())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        placed, _, mounted = line.partition(" - ")
        root, mount = placed.split()[3:5]
        kind, _, options = mounted.split()
        if kind not in {"cgroup", "cgroup2"}:
            continue
        chosen = ",".join(word for word in options.split(",") if word not in {"rw", "ro"}) if kind == "cgroup" else ""
        path = mine.pop(chosen, None)
        if path is None:
            continue
        # A container may see no more than its own group.
        parent = Path(mount) / (os.path.relpath(path, root) if Path(path).is_relative_to(root) else "")
        named = f"none,{chosen}" if chosen.startswith("name=") else chosen
        controllers = frozenset(chosen.split(",")) if chosen else _version_2(parent)
        yield Hierarchy(mount, kind, controllers, named, str(parent / name), "" if chosen else "node")


def _version_2(group: Path) -> frozenset[str]:
    return frozenset((group / "cgroup.controllers").read_text().split())


def _mine() -> Iterator[tuple[str, str]]:
    """Where this process is, by controllers; version 2 names none."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers, path
