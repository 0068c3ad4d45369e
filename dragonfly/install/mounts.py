"""What is mounted where, as the kernel's mountinfo has it (proc_pid_mountinfo(5)). Pure."""

import re
from collections.abc import Iterable
from typing import NamedTuple

_ESCAPED = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    number: int
    parent: int
    device: str
    root: str
    """The part of the device's file system that is seen there."""
    place: str


def mounts(table: str) -> list[Mount]:
    """Return those of a mountinfo, in the order in which they were made."""
    found = []
    for line in table.splitlines():
        number, parent, device, root, place = map(_plain, line.split(" ")[:5])
        found.append(Mount(int(number), int(parent), device, root, place))
    return found


def to_unmount(found: Iterable[Mount], path: str) -> list[str]:
    """Return the places to unmount, the last first, before a directory can be removed with all that is in it.

    All that is mounted below it, and the directory itself if it is mounted onto itself, as a kubelet does it. A disk
    that is mounted there is somebody's own.
    """
    listed = list(found)
    by_number = {mount.number: mount for mount in listed}
    return [
        mount.place
        for mount in reversed(listed)
        if mount.place.startswith(f"{path}/") or (mount.place == path and _is_onto_itself(mount, by_number))
    ]


def _is_onto_itself(mount: Mount, by_number: dict[int, Mount]) -> bool:
    parent = by_number.get(mount.parent)
    if parent is None or parent.device != mount.device:
        return False
    if parent.place == mount.place:  # it is on top of another such one
        return parent.root == mount.root and _is_onto_itself(parent, by_number)
    inside = mount.place.removeprefix(parent.place.rstrip("/"))
    return mount.root == f"{parent.root.rstrip('/')}{inside}"


def _plain(field: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)
