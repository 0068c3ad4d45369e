"""Every request of Dragonfly's to change anything in a cluster, whatever became of it, and where it came from."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.e2e.audit import OURS

_WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})


class KubeWrite(NamedTuple):
    """A request as the API server's audit log has it."""

    source: str
    """The address that it came from."""
    asked_at: float
    """Seconds since 1970, as are the times in a test."""
    verb: str
    object: str
    code: int


def kube_writes(audit_log: Path) -> list[KubeWrite]:
    """All that are in the log by now, in its order."""
    complete, _, _ = audit_log.read_bytes().rpartition(b"\n")
    lines = (json.loads(line) for line in complete.splitlines())
    return [_write(line) for line in lines if _is_write(line)]


def _is_write(line: dict[str, Any]) -> bool:
    return line["verb"] in _WRITES and line["user"].get("username") == OURS and line["stage"] == "ResponseComplete"


def _write(line: dict[str, Any]) -> KubeWrite:
    reference = line.get("objectRef", {})
    return KubeWrite(
        source=line["sourceIPs"][0],
        asked_at=datetime.fromisoformat(line["requestReceivedTimestamp"]).timestamp(),
        verb=line["verb"],
        object=f"{reference.get('resource', '')}/{reference.get('name', '')}",
        code=line.get("responseStatus", {}).get("code", 0),
    )
