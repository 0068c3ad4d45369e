"""A member's log with nothing in it is told from one that has something, and from one that is not understood."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import pytest

from dragonfly.install.etcd_log import has_begun, is_blank

_METADATA: Final = 1
_ENTRY: Final = 2
_STATE: Final = 3
_CHECKSUM: Final = 4
_SNAPSHOT: Final = 5
_NOTHING: Final = b"\x08\x00\x10\x00"
"""A snapshot's index and term."""


def record(kind: int, content: bytes = b"") -> bytes:
    """One, as etcd writes it: its length with that of the padding in the highest byte, itself, the padding."""
    data = b"\x1a" + bytes((len(content),)) + content if content else b""
    record = bytes((0x08, kind, 0x10, 0x7F)) + data
    padding = -len(record) % 8
    length = len(record) | ((0x80 | padding) << 56 if padding else 0)
    return length.to_bytes(8, "little") + record + bytes(padding)


BLANK: Final = record(_CHECKSUM) + record(_METADATA, b"id") + record(_SNAPSHOT, _NOTHING) + record(_STATE, b"\x08\x01")


@pytest.mark.parametrize(
    ("log", "begun"),
    [
        (b"", False),
        (bytes(64), False),
        (BLANK + bytes(64), False),
        (BLANK, False),
        (BLANK + record(_ENTRY, b"entry") + bytes(64), True),
        (BLANK + record(_SNAPSHOT, b"\x08\x05\x10\x02") + bytes(64), True),
        # Nothing that is not understood is taken for nothing.
        (b"\x03\x00\x00\x00\x00\x00\x00\x00\x12\x01\x00", True),
        (b"\x09\x00\x00\x00\x00\x00\x00\x00\x08", True),
    ],
)
def test_a_log_has_begun_with_an_entry_or_a_snapshot(log: bytes, begun: bool) -> None:
    assert has_begun(io.BytesIO(log)) is begun


def test_a_member_that_has_got_nothing_is_blank(tmp_path: Path) -> None:
    assert not is_blank(tmp_path), "nothing has started here"
    (tmp_path / "member/snap").mkdir(parents=True)
    assert is_blank(tmp_path), "it ended before it had a log"
    wal = tmp_path / "member/wal"
    wal.mkdir()
    (wal / "0000000000000000-0000000000000000.wal").write_bytes(BLANK)
    assert is_blank(tmp_path)

    (wal / "0000000000000001-0000000000000007.wal").write_bytes(BLANK + record(_ENTRY, b"entry"))

    assert not is_blank(tmp_path)
