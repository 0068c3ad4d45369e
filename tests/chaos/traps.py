"""A plan that keeps single requests back: the first of a replica that fits, at the very moment that a test is about."""

import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from tests.chaos.proxy import Call, Fault, Held
from tests.e2e.fleet import ENDS

Fits = Callable[[Call], bool]


class Trap:
    """Waits for one request."""

    def __init__(self, replica: str, fits: Fits, *, after: bool) -> None:
        """`after`: the server carries it out, and its answer is kept back; else it does not reach the server."""
        self.held = Held(after=after)
        self._replica = replica
        self._fits = fits
        self._sprung = False

    def catches(self, call: Call) -> bool:
        if self._sprung or call.replica != self._replica or not self._fits(call):
            return False
        self._sprung = True
        return True


class Traps:
    """The plan; traps can be set while the proxy runs."""

    def __init__(self) -> None:
        self._traps: tuple[Trap, ...] = ()

    def set(self, *traps: Trap) -> None:
        self._traps += traps

    def __call__(self, call: Call) -> Fault | None:
        return next((trap.held for trap in self._traps if trap.catches(call)), None)


def arming_on(machine: str) -> Fits:
    """The patch that lets a Workflow of a machine run, of those that it sees being made."""
    made: set[str] = set()

    def fits(call: Call) -> bool:
        if call.method == "POST" and call.object.startswith("workflows/") and call.machine == machine:
            made.add(call.object)
        is_patch = call.method == "PATCH" and call.object in made
        return is_patch and (call.document.get("spec") or {}).get("disabled") is False

    return fits


def hardware_of(machine: str) -> Fits:
    """Any apply of a machine's Hardware."""
    return lambda call: call.method == "PATCH" and call.object == f"hardware/{machine}"


def result_of(provision: str) -> Fits:
    """The transaction in etcd that writes a provision's result."""

    def fits(call: Call) -> bool:
        return call.path.endswith("/kv/txn") and any(
            _is_end(put) for put in _puts(call.document) if _text(put["key"]).endswith(f"/{provision}")
        )

    return fits


def _puts(transaction: dict[str, Any]) -> list[dict[str, Any]]:
    found = [operation.get("request_put") or operation.get("requestPut") for operation in transaction["success"]]
    return [put for put in found if put]


def _is_end(put: dict[str, Any]) -> bool:
    return json.loads(_text(put["value"]))["status"]["phase"] in ENDS


def _text(encoded: str) -> str:
    return b64decode(encoded).decode()
