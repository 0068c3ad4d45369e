"""The reader of the audit log sees what the other tests of this directory rely on it to see."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.audit import OURS, audit_of, read_audit, stamped_of, unmarked_of

TINKERBELL = "system:serviceaccount:tinkerbell:tinkerbell"


def line(verb: str, sent: Any = None, became: Any = None, **changes: Any) -> bytes:
    event = {
        "verb": verb,
        "stage": "ResponseComplete",
        "user": {"username": changes.get("by", OURS)},
        "objectRef": {
            "apiGroup": changes.get("group", "tinkerbell.org"),
            "resource": changes.get("resource", "workflows"),
            "name": changes.get("name", "w"),
            "subresource": changes.get("subresource", ""),
        },
        "responseStatus": {"code": changes.get("code", 200)},
        "requestObject": sent,
        "responseObject": became,
        "requestReceivedTimestamp": "2026-01-01T00:00:00.000001Z",
        "stageTimestamp": "2026-01-01T00:00:00.000002Z",
    }
    return json.dumps(event).encode()


def workflow(version: int, uid: str = "u", *, armed: bool = False, **status: Any) -> dict[str, Any]:
    given = {"agentID": "02:00:00:00:00:01", **status}
    metadata = {"name": "w", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"disabled": not armed}, "status": given}


def deleted(uid: str = "u") -> dict[str, Any]:
    return {"kind": "Status", "status": "Success", "details": {"name": "w", "uid": uid}}


def reported(version: int, *, armed: bool = True, **status: Any) -> bytes:
    became = workflow(version, armed=armed, **status)
    return line("update", became, became, by=TINKERBELL, subresource="status")


def delete_given(version: int, **changes: Any) -> bytes:
    return line("delete", {"preconditions": {"uid": "u", "resourceVersion": str(version)}}, **changes)


CREATE = line("create", {"spec": {"disabled": True}}, workflow(1))
ARM = line("patch", {"spec": {"disabled": False}}, workflow(2, armed=True))
ARM_AGAIN = line("patch", {"spec": {"disabled": False}}, workflow(3, armed=True))
ARM_UNANSWERED = line("patch", {"spec": {"disabled": False}}, code=504)
CREATE_UNANSWERED = line("create", {"spec": {"disabled": True}}, code=504)
DELETE = delete_given(9, became=deleted())


def counted(*lines: bytes) -> tuple[int, int]:
    audit = audit_of(lines)
    return len(audit.creates("w")), len(audit.armings("w"))


def test_creates_and_armings_are_counted_by_name() -> None:
    other = line("create", {"spec": {"disabled": True}}, workflow(1), name="other")

    assert counted(CREATE, ARM, ARM_AGAIN, other) == (1, 2)
    assert len(audit_of([CREATE, other]).creates("other")) == 1
    assert counted(other) == (0, 0)


def test_an_arming_without_an_answer_counts_if_the_workflow_is_seen_armed() -> None:
    """The client was killed: the API server says 504, and may have written."""
    assert counted(CREATE, ARM_UNANSWERED) == (1, 0)
    assert counted(CREATE, ARM_UNANSWERED, reported(5, armed=False)) == (1, 0)
    assert counted(CREATE, ARM_UNANSWERED, reported(5)) == (1, 1)
    assert counted(CREATE, ARM_UNANSWERED, ARM, reported(5)) == (1, 1)
    assert counted(CREATE, ARM_UNANSWERED, reported(2), ARM_AGAIN) == (1, 2)


def test_a_create_without_an_answer_counts_if_the_workflow_is_there() -> None:
    assert counted(CREATE_UNANSWERED) == (0, 0)
    assert counted(CREATE_UNANSWERED, CREATE, ARM) == (1, 1)
    assert counted(CREATE_UNANSWERED, ARM) == (1, 1)
    again = line("create", {"spec": {"disabled": True}}, workflow(7, "second"))
    assert counted(CREATE_UNANSWERED, ARM, again) == (2, 1)


def test_what_nobody_can_have_done_is_an_error() -> None:
    with pytest.raises(LookupError):
        audit_of([CREATE, reported(5)]).armings("w")
    with pytest.raises(LookupError):
        audit_of([reported(5)]).creates("w")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(line("patch", {"spec": {"disabled": False}}, None, code=409), id="refused"),
        pytest.param(line("patch", {"spec": {"disabled": False}}, workflow(3, armed=True), by="admin"), id="not ours"),
        pytest.param(line("patch", {"spec": {"disabled": True}}, workflow(3)), id="disarmed"),
        pytest.param(line("patch", {"status": {"state": "FAILED"}}, workflow(3), subresource="status"), id="halted"),
        pytest.param(line("patch", {"spec": {"disabled": False}}, None, resource="templates"), id="no Workflow"),
        pytest.param(line("get", None, workflow(3)), id="read"),
    ],
)
def test_what_is_no_arming_is_not_counted(other: bytes) -> None:
    assert counted(CREATE, ARM, other) == (1, 1)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"state": "RUNNING"}, id="running"),
        pytest.param({"state": "POST"}, id="post"),
        pytest.param({"state": "PENDING", "currentState": {"state": "PENDING"}}, id="served"),
        pytest.param({"currentState": {"state": "PENDING"}}, id="served, no state"),
    ],
)
def test_a_running_workflow_that_was_deleted_is_found(status: dict[str, Any]) -> None:
    # The lines of the log come in the order in which requests ended, not that of the writes.
    for delete in (DELETE, delete_given(9, code=504)):
        found = audit_of([CREATE, reported(9, **status), ARM, delete]).running_deleted()

        assert [(one.workflow, one.state) for one in found] == [("w", status.get("state", ""))]


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="staged"),
        pytest.param({"state": "PENDING"}, id="not served"),
        pytest.param({"state": "SUCCESS", "currentState": {"state": "SUCCESS"}}, id="succeeded"),
        pytest.param({"state": "FAILED", "currentState": {"state": "RUNNING"}}, id="failed"),
        pytest.param(
            {"state": "RUNNING", "currentState": {"state": "RUNNING"}, "agentID": ""}, id="taken from its agent"
        ),
    ],
)
def test_others_may_be_deleted(status: dict[str, Any]) -> None:
    assert audit_of([CREATE, ARM, reported(9, **status), DELETE]).running_deleted() == []


def test_what_somebody_else_deletes_is_not_ours() -> None:
    assert (
        audit_of([CREATE, reported(9, state="RUNNING"), line("delete", None, deleted(), by="admin")]).running_deleted()
        == []
    )


def test_a_namesake_is_told_by_its_uid() -> None:
    after = line("create", {"spec": {"disabled": True}}, workflow(7, uid="second"))
    swept = line("delete", None, deleted("second"))

    assert audit_of([CREATE, reported(5, state="RUNNING"), after, swept]).running_deleted() == []


def test_a_delete_of_what_the_log_does_not_know_is_an_error() -> None:
    with pytest.raises(LookupError):
        audit_of([DELETE]).running_deleted()


def test_a_delete_that_cannot_have_met_its_precondition_is_not_held_against_anybody() -> None:
    unanswered = delete_given(2, code=504)

    assert audit_of([CREATE, ARM, reported(9, state="RUNNING"), unanswered]).running_deleted() == []


def test_half_a_line_is_left_for_later(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_bytes(CREATE + b"\n" + ARM[:40])
    assert len(read_audit(log).armings("w")) == 0

    log.write_bytes(CREATE + b"\n" + ARM + b"\n")
    assert len(read_audit(log).armings("w")) == 1


def test_writes_are_told_with_the_epoch_that_they_came_with() -> None:
    became = workflow(2)
    became["metadata"]["labels"] = {"dragonfly.io/machine": "m-1"}
    asked = {"metadata": {"annotations": {"dragonfly.io/epoch": "7"}}, "spec": {"disabled": False}}
    refused = line("patch", asked, {"kind": "Status"}, code=409)

    (found,) = stamped_of([line("patch", asked, became), refused, reported(3), DELETE])

    assert (found.object, found.machine, found.uid, found.version, found.epoch) == ("workflows/w", "m-1", "u", 2, 7)


def test_what_tells_no_epoch_is_told_by_whose_it_is() -> None:
    became = workflow(2)
    became["metadata"]["labels"] = {"dragonfly.io/machine": "m-1"}
    lines = [
        line("create", None, became, name=""),
        DELETE,
        line("delete", None, deleted(), resource="hardware", name="m-2"),
        line("delete", None, deleted(), resource="machines", group="bmc.tinkerbell.org", name="m-3"),
        line("patch", resource="secrets", group="", name="m-4-bmc"),
        line("delete", resource="secrets", group="", name="m-5-bmc"),
        line("delete", None, deleted(), resource="hardware", name="m-6", code=409),
        line("delete", None, deleted(), resource="hardware", name="m-7", by="admin"),
        line("patch", None, None, resource="events", group="", name="m-8"),
    ]

    assert [(found.object, found.verb, found.machine) for found in unmarked_of(lines)] == [
        ("workflows/w", "delete", "m-1"),
        ("hardware/m-2", "delete", "m-2"),
        ("machines/m-3", "delete", "m-3"),
        ("secrets/m-4-bmc", "patch", "m-4"),
        ("secrets/m-5-bmc", "delete", "m-5"),
    ]
    with pytest.raises(LookupError):
        unmarked_of([DELETE])
    assert unmarked_of([DELETE], has_gaps=True) == []
