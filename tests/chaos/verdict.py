"""Whether what happened keeps the promises of docs/architecture.md. Pure: evidence goes in, violations come out.

The witnesses are independent of Dragonfly: the clients' own record, the API server's audit log, etcd's word on claims,
and the machines' trace of what they were made to do. What Dragonfly says at the end is only compared with them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dragonfly.model.values import LOCAL
from dragonfly.sandbox.agents import Step
from dragonfly.swarm.shards import shard_of
from tests.chaos.claims import Tenure
from tests.chaos.history import Request, Seen
from tests.e2e.audit import Audit, Stamped, Unmarked, Write
from tests.e2e.fleet import ENDS, Outcome, outcome, starts, workflow

SHARDS: Final = 8
"""Of a cluster, unless it is set."""
_LATE: Final = 1.0
"""Seconds by which a write may reach the API server after its claim's end was told. A replica stops half a second
before, but what it has sent by then takes its time on a busy computer; one that woke up late is later than this."""


class Evidence(NamedTuple):
    """Everything that was witnessed of one swarm."""

    requests: Sequence[Request]
    provisions: Mapping[str, Any]
    """What the API says of each in the end, by name."""
    machines: Collection[str]
    """The names of those that the API knows in the end."""
    expected: Mapping[str, Collection[Outcome]]
    """How each provision may end, by its name: what seeds decided beforehand, and what people asked for."""
    netboot: Mapping[str, Sequence[bool]]
    """Of each interface in the cluster, by machine."""
    unowned: Sequence[Any]
    audit: Audit
    stamped: Sequence[Stamped]
    unmarked: Sequence[Unmarked]
    tenures: Sequence[Tenure]
    trace: Sequence[Step]
    held: Collection[tuple[str, int]] = ()
    """Objects and epochs of requests that the test itself kept back beyond the end of their claim."""
    frozen: Collection[tuple[float, float]] = ()
    """When the API server stood still, in seconds since 1970: what it read when it went on had been sent before."""
    has_gaps: bool = False
    """The API server was killed: what it was doing at that moment may have been done without being logged."""


class Broken(NamedTuple):
    """A promise that was not kept."""

    promise: str
    words: str


def broken_promises(evidence: Evidence) -> list[Broken]:
    """Return all that was not kept, in the order of the checks; none for a swarm that kept every promise."""
    return [
        *_run_twice(evidence),
        *_left_open(evidence),
        *_written_by_a_former_owner(evidence),
        *_written_by_nobodys_right(evidence),
        *_lost(evidence),
        *_not_as_expected(evidence),
        *_out_of_order(evidence.requests),
    ]


def _run_twice(evidence: Evidence) -> Iterator[Broken]:
    """P1: one create and one arming for each that ran, no action begun twice, and an end is an end."""
    for name, provision in evidence.provisions.items():
        creates = _counted(evidence, evidence.audit.creates, name)
        armings = _counted(evidence, evidence.audit.armings, name)
        least = 1 if _has_run(outcome(provision)) and not evidence.has_gaps else 0
        if not (least <= creates <= 1 and least <= armings <= 1):
            yield Broken("P1", f"{name} was created {creates} times and armed {armings} times")
    for (agent, name, action), count in starts(evidence.trace).items():
        if count > 1:
            yield Broken("P1", f"{action} of {name} was begun {count} times on {agent}")
        if not evidence.has_gaps and not evidence.audit.armings(workflow(name)):
            yield Broken("P1", f"{action} of {name} was begun on {agent}, though nobody armed it")
    for deleted in evidence.audit.running_deleted():
        yield Broken("P1", f"{deleted.workflow} was deleted while it ran: {deleted.state}")
    yield from _ended_twice(evidence.requests)


def _counted(evidence: Evidence, found: Callable[[str], Sequence[Write]], provision: str) -> int:
    try:
        return len(found(workflow(provision)))
    except LookupError:
        if evidence.has_gaps:
            return 1  # the one that is not logged; another would be another object, or another version of it
        raise


def _has_run(ended: Outcome) -> bool:
    return ended.phase == "Succeeded" or ended.reason == "ActionFailed"


def _ended_twice(requests: Sequence[Request]) -> Iterator[Broken]:
    ends: dict[str, set[str]] = defaultdict(set)
    for seen in _objects(requests):
        if seen.kind == "Provision" and seen.phase in ENDS:
            ends[seen.name].add(seen.phase)
    for name, phases in ends.items():
        if len(phases) > 1:
            yield Broken("P1", f"{name} was told to have ended as {' and as '.join(sorted(phases))}")


def _left_open(evidence: Evidence) -> Iterator[Broken]:
    """P2: no machine that nobody provisions may boot from the network."""
    for machine, interfaces in evidence.netboot.items():
        if any(interfaces):
            yield Broken("P2", f"{machine} may still boot from the network")


def _written_by_a_former_owner(evidence: Evidence) -> Iterator[Broken]:
    """P4: nothing of a former owner is written over what a later one wrote. P10: nor at all after its claim's end."""
    newest: dict[tuple[str, str], Stamped] = {}
    # A Template serves machines of all shards, whose epochs say nothing about each other.
    of_machines = (write for write in evidence.stamped if write.machine)
    for write in sorted(of_machines, key=lambda write: write.version):
        before = newest.get((write.object, write.uid))
        if before is not None and write.epoch < before.epoch and write.version > before.version:
            yield Broken("P4", f"{write.object} of epoch {before.epoch} was overwritten under epoch {write.epoch}")
        newest[write.object, write.uid] = write
    for write in evidence.stamped:
        ends = [tenure.ended_at for tenure in evidence.tenures if _is_of(tenure, write)]
        if not ends:
            yield Broken("P4", f"{write.object} was written under epoch {write.epoch}, which nobody had")
            continue
        late = _sent_by(write, evidence.frozen) - max(ends)
        if late > _LATE and (write.object, write.epoch) not in evidence.held:
            yield Broken("P10", f"{write.object} was written {late:.3f} s after the end of its claim {write.epoch}")


def _written_by_nobodys_right(evidence: Evidence) -> Iterator[Broken]:
    """P10, of what tells no epoch: somebody had the shard of its machine when it was sent."""
    for write in evidence.unmarked:
        if write.object in {name for name, _ in evidence.held}:
            continue
        sent_at = _sent_by(write, evidence.frozen)
        tenures = [tenure for tenure in evidence.tenures if tenure.shard == _shard_of(write.machine)]
        # Of a claim's begin the witness may learn late.
        if not any(tenure.began_at - _LATE <= sent_at <= tenure.ended_at + _LATE for tenure in tenures):
            yield Broken("P10", f"{write.verb} of {write.object} was sent while nobody had {_shard_of(write.machine)}")


def _shard_of(machine: str) -> str:
    return f"{LOCAL}/{shard_of(machine, SHARDS)}"


def _sent_by(write: Stamped | Unmarked, frozen: Collection[tuple[float, float]]) -> float:
    """Return when a write had left at the latest, as far as the API server's word tells."""
    read_at = write.asked_at.timestamp()
    return next((begin for begin, end in frozen if begin <= read_at <= end + _LATE), read_at)


def _is_of(tenure: Tenure, write: Stamped) -> bool:
    return tenure.epoch == write.epoch and (tenure.shard == _shard_of(write.machine) or not write.machine)


def _lost(evidence: Evidence) -> Iterator[Broken]:
    """P5: what was accepted is there and has ended. P6: every shard has an owner again."""
    for request in evidence.requests:
        if request.method != "POST" or not request.ok:
            continue
        for seen in request.seen:
            if seen.kind == "Machine" and seen.name not in evidence.machines:
                yield Broken("P5", f"machine {seen.name} was accepted and is not there")
            if seen.kind == "Provision" and seen.name not in evidence.provisions:
                yield Broken("P5", f"provision {seen.name} was accepted and is not there")
    for name, provision in evidence.provisions.items():
        if provision["status"]["phase"] not in ENDS:
            yield Broken("P5", f"{name} has not ended: {provision['status']['phase']}")
    for shard in evidence.unowned:
        yield Broken("P6", f"nobody owns {shard}")


def _not_as_expected(evidence: Evidence) -> Iterator[Broken]:
    """P7: no fault of replicas, etcd or the API server fails a provision."""
    for name, provision in evidence.provisions.items():
        ended, expected = outcome(provision), evidence.expected[name]
        if ended not in expected:
            yield Broken("P7", f"{name} ended as {ended}, not as {' or '.join(map(str, expected))}")


def _out_of_order(requests: Sequence[Request]) -> Iterator[Broken]:
    """P9: no replica goes back in one client's eyes, and none answers with less than it was asked for."""
    last: dict[tuple[str, str], int] = {}
    for request in requests:
        if request.method != "GET" or not request.ok:
            continue
        who = f"{request.replica} told {request.client}"
        if request.revision < request.min_revision:
            yield Broken("P9", f"{who} of revision {request.revision} when asked for {request.min_revision}")
        before = last.get((request.client, request.replica), 0)
        if request.revision < before:
            yield Broken("P9", f"{who} of revision {before}, and then of {request.revision}")
        last[request.client, request.replica] = request.revision
        for seen in request.seen:
            if seen.revision > request.revision:
                yield Broken("P9", f"{who} of {seen.name} at {seen.revision} as of revision {request.revision}")


def _objects(requests: Sequence[Request]) -> Iterator[Seen]:
    return (seen for request in requests for seen in request.seen)


def summary(evidence: Evidence) -> dict[str, int]:
    """How much was witnessed: a verdict on nothing would be no verdict."""
    answered = Counter(request.status // 100 for request in evidence.requests)
    return {
        "requests": len(evidence.requests),
        "unanswered": answered[0],
        "refused": answered[5],
        "provisions": len(evidence.provisions),
        "writes": len(evidence.stamped),
        "deletions": sum(write.verb == "delete" for write in evidence.unmarked),
        "claims": len(evidence.tenures),
        "steps": len(evidence.trace),
    }
