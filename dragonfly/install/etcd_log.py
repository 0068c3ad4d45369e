"""Whether a member of etcd has anything in its log; one that comes up on an empty disk has a log too, without an entry.

Such a one is of no use: the others know that it had more, so they send what follows that, and it ends at once, again
and again. (A member with a vote that forgets is what etcd's consensus excludes. One without harms nobody, but is of no
more use while the leader remembers what it had acknowledged.)

A log is files of records, each after eight bytes that say how long it is: etcd's server/storage/wal, the same since
etcd 3.0.
"""

from os import SEEK_CUR
from pathlib import Path
from typing import IO, Final

_FRAME: Final = 8
_ENTRY: Final = 2
_SNAPSHOT: Final = 5
_BEGINNING: Final = b"\x08\x00\x10\x00"
"""The snapshot that each log begins with: index 0, term 0."""
_KIND: Final = 0x08
"""The tag before a record's kind, which is the first that it says."""


def is_blank(data: Path) -> bool:
    """Whether a member was started in this directory, and nothing has got into its log.

    Args:
        data: the member's `--data-dir`.
    """
    member = data / "member"
    segments = sorted(member.glob("wal/*.wal"))
    return member.is_dir() and not any(map(_is_begun, segments))


def has_begun(log: IO[bytes]) -> bool:
    """Whether there is an entry in a file of a log, or a snapshot; also if it is of a kind that is not known here."""
    while length := int.from_bytes(log.read(_FRAME), "little"):
        size, padding = length & (1 << 56) - 1, length >> 56 & 0x7 if length >> 63 else 0
        record = log.read(size)
        log.seek(padding, SEEK_CUR)
        if len(record) < 2 or record[0] != _KIND or record[1] == _ENTRY:
            return True
        if record[1] == _SNAPSHOT and not record.endswith(_BEGINNING):
            return True
    return False


def _is_begun(segment: Path) -> bool:
    with segment.open("rb") as log:
        return has_begun(log)
