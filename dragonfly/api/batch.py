"""Many changes of machines in one request: each is the intent of its single route, with a result of its own.

What concerns one machine is done in the order in which it stands in the request; different machines do not wait for
each other.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import msgspec

from dragonfly.api import answers
from dragonfly.api.desk import Desk
from dragonfly.api.problems import ProblemDocument, document_of
from dragonfly.intent import machines, moves, power, provisions
from dragonfly.intent.documents import as_input
from dragonfly.intent.idempotency import Answer, fingerprint
from dragonfly.intent.machines import LockInput, UnlockInput
from dragonfly.intent.plan import Decide
from dragonfly.intent.refusals import NotFound
from dragonfly.intent.terms import ANY, Match, Terms
from dragonfly.model.machine import MachineInput, MoveInput
from dragonfly.model.power import PowerInput
from dragonfly.model.provision import CancelInput, ProvisionRequest
from dragonfly.model.values import FieldError, Input, Invalid, Value, is_dns_label
from dragonfly.swarm.members import reach

MOST: Final = 1000
_AT_ONCE: Final = 16
"""Machines that are worked on at a time: one request must not keep the others from etcd."""


class CreateOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="create"):
    """As `POST machines`."""

    body: MachineInput


class ReplaceOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="replace"):
    """As `PUT machines/{name}`."""

    name: str
    if_match: int | Literal["*"]
    body: MachineInput


class PatchOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="patch"):
    """As `PATCH machines/{name}`."""

    name: str
    if_match: int | Literal["*"]
    body: dict[str, Any]


class DeleteOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="delete"):
    """As `DELETE machines/{name}`."""

    name: str
    if_match: int | Literal["*"]


class ProvisionOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="provision"):
    """As `POST machines/{name}/provision`."""

    name: str
    body: ProvisionRequest


class CancelOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="cancel"):
    """As `POST provisions/{name}/cancel`, for what is being provisioned on the machine."""

    name: str
    body: CancelInput = CancelInput()


class PowerOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="power"):
    """As `POST machines/{name}/power`."""

    name: str
    body: PowerInput


class MoveOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="move"):
    """As `POST machines/{name}/move`."""

    name: str
    body: MoveInput


class LockOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="lock"):
    """As `POST machines/{name}/lock`."""

    name: str
    body: LockInput


class UnlockOperation(Input, frozen=True, kw_only=True, tag_field="op", tag="unlock"):
    """As `POST machines/{name}/unlock`."""

    name: str
    body: UnlockInput = UnlockInput()


AnyOperation = (
    CreateOperation
    | ReplaceOperation
    | PatchOperation
    | DeleteOperation
    | ProvisionOperation
    | CancelOperation
    | PowerOperation
    | MoveOperation
    | LockOperation
    | UnlockOperation
)
_KINDS: Final[Mapping[str, type[AnyOperation]]] = {
    "create": CreateOperation,
    "replace": ReplaceOperation,
    "patch": PatchOperation,
    "delete": DeleteOperation,
    "provision": ProvisionOperation,
    "cancel": CancelOperation,
    "power": PowerOperation,
    "move": MoveOperation,
    "lock": LockOperation,
    "unlock": UnlockOperation,
}


class BatchInput(Input, frozen=True, kw_only=True):
    """Body of `POST machines:batch`: 1,000 operations at most."""

    operations: tuple[AnyOperation, ...]


class _Sent(Input, frozen=True, kw_only=True):
    """A batch whose operations are read one by one, so that a mistake in one of them is that one's result."""

    operations: tuple[Any, ...]


class BatchResult(Value, frozen=True, kw_only=True):
    """What the operation's single route would have answered: its status, and the resource or the problem."""

    status: int
    location: str = ""
    body: msgspec.Raw | None = None
    problem: ProblemDocument | None = None


class BatchView(Value, frozen=True, kw_only=True):
    """The results, in the order of the operations."""

    kind: Literal["BatchResult"]
    results: tuple[BatchResult, ...]


class Caller(NamedTuple):
    """Who sent the batch, and how its repetition is known."""

    name: str
    request_id: str
    instance: str
    key: str | None
    """The Idempotency-Key."""


class Outcome(NamedTuple):
    """All results, and the revision that they reflect."""

    view: BatchView
    revision: int


class _Intent(NamedTuple):
    """What an operation decides, and what that is answered."""

    decide: Decide[Any]
    answer: Callable[[Any], Answer]


def operations_in(document: Any) -> tuple[Any, ...]:
    """Return the operations of a batch, not yet read.

    Raises:
        Invalid: the document is no batch, or has too many operations.
    """
    sent = as_input(document, _Sent).operations
    if len(sent) > MOST:
        raise Invalid([FieldError("operations", f"must be {MOST:,} at most; split the batch", len(sent))])
    return sent


async def carry_out_all(desk: Desk, caller: Caller, sent: Sequence[Any]) -> Outcome:
    """Carry out every operation, whatever becomes of the others."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def in_order(numbers: Sequence[int]) -> list[tuple[int, BatchResult, int]]:
        async with slots:
            return [(number, *await _one(desk, caller, number, sent[number])) for number in numbers]

    groups = await asyncio.gather(*map(in_order, _by_machine(sent)))
    done = sorted(itertools.chain.from_iterable(groups), key=lambda entry: entry[0])
    view = BatchView(kind="BatchResult", results=tuple(result for _, result, _ in done))
    return Outcome(view, max((revision for _, _, revision in done), default=0))


def _by_machine(sent: Sequence[Any]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for number, operation in enumerate(sent):
        groups.setdefault(_named(operation) or number, []).append(number)
    return list(groups.values())


def _named(operation: Any) -> str:
    """The machine's name as far as it can be seen before the operation is read; only the order depends on it."""
    try:
        name = operation["body"]["metadata"]["name"] if operation["op"] == "create" else operation["name"]
    except (KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


async def _one(desk: Desk, caller: Caller, number: int, sent: Any) -> tuple[BatchResult, int]:
    try:
        intent = _intent(desk, _read(sent), caller)
        done = await desk.once(intent.decide, intent.answer, _key(desk, caller, number, sent))
    except Exception as error:
        problem = document_of(error, instance=f"{caller.instance}#{number}", request_id=caller.request_id)
        return BatchResult(status=problem.status, problem=problem), 0
    kept = done.outcome
    return BatchResult(status=kept.status, location=kept.location, body=msgspec.Raw(kept.body)), done.revision


def _key(desk: Desk, caller: Caller, number: int, sent: Any) -> tuple[str, str] | None:
    """Each operation has a key of its own, so that a batch that is sent again repeats nothing."""
    if caller.key is None:
        return None
    parts = (caller.name.encode(), caller.instance.encode(), msgspec.json.encode(sent, order="deterministic"))
    return f"{caller.key}.{number}", fingerprint(*parts, sealer=desk.context.sealer)


def _read(sent: Any) -> AnyOperation:
    if not isinstance(sent, dict):
        raise Invalid([FieldError("(operation)", "must be an object")])
    kind = _KINDS.get(sent["op"]) if isinstance(sent.get("op"), str) else None
    if kind is None:
        raise Invalid([FieldError("op", f"must be one of {', '.join(_KINDS)}", sent.get("op"))])
    return as_input(sent, kind)


def _intent(desk: Desk, operation: AnyOperation, caller: Caller) -> _Intent:
    context = desk.context
    terms = desk.terms_of(caller.name)
    match operation:
        case CreateOperation(body=body):
            return _Intent(partial(machines.create, sent=body, terms=terms), partial(answers.machine_created, context))
        case ProvisionOperation(body=body):
            new = partial(provisions.accept, name=context.new_ulid(), request=body, terms=terms)
            return _Intent(partial(new, machine=_machine(operation.name)), answers.provision_accepted)
        case CancelOperation(body=body):
            decide = partial(provisions.cancel_running, reason=body.reason, terms=terms)
            return _Intent(partial(decide, machine=_machine(operation.name)), answers.provision_accepted)
        case PowerOperation(body=body):
            asked = partial(power.accept, name=context.new_ulid(), action=body.action, terms=terms)
            return _Intent(partial(asked, machine=_machine(operation.name)), answers.power_accepted)
        case MoveOperation(body=body):
            decide_move = partial(moves.move, sent=body, terms=terms, reach=partial(reach, context.mirror))
            return _Intent(
                partial(decide_move, name=_machine(operation.name)), partial(answers.machine_accepted, context)
            )
        case DeleteOperation():
            decide_end = partial(machines.delete, name=_machine(operation.name), match=_match(operation), terms=terms)
            return _Intent(decide_end, partial(answers.machine_accepted, context))
        case _:
            return _Intent(_change(operation, terms), partial(answers.machine_changed, context))


def _change(
    operation: ReplaceOperation | PatchOperation | LockOperation | UnlockOperation, terms: Terms
) -> Decide[Any]:
    name = _machine(operation.name)
    match operation:
        case ReplaceOperation(body=body):
            return partial(machines.replace, name=name, sent=body, match=_match(operation), terms=terms)
        case PatchOperation(body=body):
            return partial(machines.patch, name=name, change=body, match=_match(operation), terms=terms)
        case LockOperation(body=body):
            return partial(machines.lock, name=name, reason=body.reason, terms=terms)
        case UnlockOperation():
            return partial(machines.unlock, name=name, terms=terms)


def _match(operation: ReplaceOperation | PatchOperation | DeleteOperation) -> Match:
    return ANY if operation.if_match == "*" else Match(frozenset({operation.if_match}))


def _machine(name: str) -> str:
    if not is_dns_label(name):
        raise NotFound("Machine", name)
    return name
