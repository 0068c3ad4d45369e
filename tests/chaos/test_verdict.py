"""The verdict is no rubber stamp: a history that keeps every promise passes, and each doctored one fails by name."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dragonfly.model.values import LOCAL
from dragonfly.sandbox.agents import Step
from dragonfly.swarm.shards import shard_of
from tests.chaos.claims import Tenure
from tests.chaos.history import Request, Seen
from tests.chaos.verdict import SHARDS, Evidence, broken_promises
from tests.e2e.audit import OURS, Audit, Stamped, Unmarked, Write
from tests.e2e.fleet import Outcome, workflow

NAME = "01J00000000000000000000001"
MACHINE = "m-1"
MAC = "02:00:00:00:00:01"
SUCCEEDED = Outcome("Succeeded")
SHARD = f"{LOCAL}/{shard_of(MACHINE, SHARDS)}"


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def kube_write(version: int, *, armed: bool, verb: str = "patch", uid: str = "u") -> Write:
    became = {"metadata": {"uid": uid, "resourceVersion": str(version)}, "spec": {"disabled": not armed}}
    sent = {"spec": {"disabled": not armed}}
    return Write(workflow(NAME), verb, OURS, "", at(version), at(version), 200, sent, became)


CREATE = kube_write(1, armed=False, verb="create")
ARM = kube_write(2, armed=True)
DELETE = Write(workflow(NAME), "delete", OURS, "", at(4), at(4), 200, {}, {"details": {"uid": "u"}})
RUNS = Write(
    workflow(NAME),
    "update",
    "system:serviceaccount:tinkerbell:tinkerbell",
    "status",
    at(3),
    at(3),
    200,
    {},
    {"metadata": {"uid": "u", "resourceVersion": "3"}, "status": {"state": "RUNNING", "agentID": MAC}},
)


def stamped(version: int, epoch: int, *, asked_at: float) -> Stamped:
    return Stamped(f"hardware/{MACHINE}", MACHINE, "h", version, epoch, at(asked_at))


def deletion(asked_at: float, name: str = f"hardware/{MACHINE}") -> Unmarked:
    return Unmarked(name, "delete", MACHINE, at(asked_at))


def step(action: str = "stream-image") -> Step:
    return Step(MAC, f"tinkerbell/{workflow(NAME)}", action, "id", "started", 3.0, 0)


def read(revision: int, phase: str = "Succeeded", *, min_revision: int = 0, of: int = 5) -> Request:
    seen = (Seen("Provision", NAME, of, phase),)
    return Request("c", "GET", "provisions", 1.0, 1.1, min_revision, "a", 200, revision, seen)


def post(kind: str, name: str) -> Request:
    return Request("c", "POST", "machines", 1.0, 1.1, 0, "a", 202, 4, (Seen(kind, name, 0, ""),))


def provision(phase: str, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": NAME}, "spec": {"machine": MACHINE}, "status": {"phase": phase, **status}}


GOOD = Evidence(
    requests=(
        post("Machine", MACHINE),
        post("Provision", NAME),
        read(5, "Running"),
        read(7, min_revision=6, of=7),
        Request("c", "GET", "provisions", 1.0, 1.1, 0, "", 0, 0, ()),
    ),
    provisions={NAME: provision("Succeeded")},
    machines={MACHINE},
    expected={NAME: {SUCCEEDED}},
    netboot={MACHINE: [False]},
    unowned=(),
    audit=Audit([CREATE, ARM, RUNS]),
    stamped=(stamped(1, 10, asked_at=5), stamped(2, 10, asked_at=6), stamped(3, 20, asked_at=12)),
    unmarked=(deletion(8), deletion(14), Unmarked(f"secrets/{MACHINE}-bmc", "patch", MACHINE, at(5))),
    tenures=(Tenure(10, SHARD, "a", 1.0, 9.0), Tenure(20, SHARD, "b", 12.0, float("inf"))),
    trace=(step(), step("write-hostname")),
)

DOCTORED: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "never created": ("P1", lambda e: e._replace(audit=Audit([]), trace=())),
    "created twice": ("P1", lambda e: e._replace(audit=Audit([CREATE, CREATE, ARM]))),
    "armed twice": ("P1", lambda e: e._replace(audit=Audit([CREATE, ARM, kube_write(3, armed=True)]))),
    "armed by nobody": ("P1", lambda e: e._replace(audit=Audit([CREATE]))),
    "begun twice": ("P1", lambda e: e._replace(trace=(*e.trace, step()))),
    "begun without an arming": (
        "P1",
        lambda e: e._replace(
            audit=Audit([CREATE]),
            provisions={NAME: provision("Cancelled")},
            expected={NAME: {Outcome("Cancelled")}},
        ),
    ),
    "deleted while it ran": ("P1", lambda e: e._replace(audit=Audit([CREATE, ARM, RUNS, DELETE]))),
    "ended twice": ("P1", lambda e: e._replace(requests=(*e.requests, read(8, "Failed", of=8)))),
    "netboot left open": ("P2", lambda e: e._replace(netboot={MACHINE: [False, True]})),
    "an older epoch over a newer one": (
        "P4",
        lambda e: e._replace(stamped=(*e.stamped, stamped(4, 10, asked_at=7))),
    ),
    "an epoch that nobody had": ("P4", lambda e: e._replace(stamped=(*e.stamped, stamped(4, 30, asked_at=13)))),
    "written after the claim's end": (
        "P10",
        lambda e: e._replace(stamped=(*e.stamped[:2], stamped(3, 10, asked_at=10.1))),
    ),
    "deleted while nobody had the shard": ("P10", lambda e: e._replace(unmarked=(deletion(10.5),))),
    "deleted when only another shard had an owner": (
        "P10",
        lambda e: e._replace(
            unmarked=(deletion(10.5),), tenures=(*e.tenures, Tenure(15, f"{SHARD}0", "c", 9.5, float("inf")))
        ),
    ),
    "written long after a freeze": (
        "P10",
        lambda e: e._replace(stamped=(*e.stamped[:2], stamped(3, 10, asked_at=10.1)), frozen=((5, 9),)),
    ),
    "an accepted provision is gone": (
        "P5",
        lambda e: e._replace(requests=(*e.requests, post("Provision", "01J2"))),
    ),
    "an accepted machine is gone": ("P5", lambda e: e._replace(machines=())),
    "a provision never ends": (
        "P5",
        lambda e: e._replace(provisions={NAME: provision("Running")}),
    ),
    "a shard without owner": ("P6", lambda e: e._replace(unowned=({"cluster": LOCAL, "shard": 1},))),
    "failed by a fault": (
        "P7",
        lambda e: e._replace(
            provisions={NAME: provision("Failed", error={"reason": "WorkflowGone", "message": "Its Workflow is gone."})}
        ),
    ),
    "a replica goes back": ("P9", lambda e: e._replace(requests=(*e.requests, read(6)))),
    "less than was asked for": ("P9", lambda e: e._replace(requests=(*e.requests, read(8, min_revision=9)))),
    "more than it says": ("P9", lambda e: e._replace(requests=(*e.requests, read(8, of=9)))),
}


def test_a_history_that_keeps_every_promise_passes() -> None:
    assert broken_promises(GOOD) == []


@pytest.mark.parametrize("story", DOCTORED)
def test_a_doctored_history_is_found_out(story: str) -> None:
    promise, doctor = DOCTORED[story]

    assert promise in {broken.promise for broken in broken_promises(doctor(GOOD))}


def test_what_the_test_itself_held_back_is_not_held_against_the_swarm() -> None:
    late = stamped(3, 10, asked_at=10.1)
    evidence = GOOD._replace(stamped=(*GOOD.stamped[:2], late), held={(late.object, late.epoch)})

    assert broken_promises(evidence) == []


def test_what_a_frozen_api_server_read_when_it_went_on_had_been_sent_before() -> None:
    late = stamped(3, 10, asked_at=10.1)
    evidence = GOOD._replace(stamped=(*GOOD.stamped[:2], late), frozen=((5, 10),))

    assert broken_promises(evidence) == []
