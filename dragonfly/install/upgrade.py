"""Upgrades what is installed: the plan of the new version, and the way back if its replicas don't become ready.

Replicas are replaced one by one, each after its successor is ready, so the swarm serves all the while, by the former
version alone if the new one never gets ready. What is put back is all that the new version changes in the cluster's own
objects: the Deployment, and rights, Service and policies with it, and the record of the installation; unless another
server has changed that, for then what is in the cluster is that one's. It is on the disk before anything is changed,
with what the upgrade makes of the record: so one that was killed is gone on with by saying `upgrade`, and nothing else.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Final, NoReturn, Protocol

import msgspec

from dragonfly.install import secret
from dragonfly.install.execution import Event, Hands, RecordChanged, Refused, StepFailed, Stopped, Tell, install
from dragonfly.install.journal import Journal, UnknownJournal
from dragonfly.install.options import Options
from dragonfly.install.recorded import RECORD, as_object, gone_back, text_of
from dragonfly.install.steps import (
    Action,
    ApplyObjects,
    AwaitReplicas,
    FoundEtcd,
    GiveEtcd,
    Gone,
    JoinEtcd,
    KeepRecord,
    Plan,
    SelfTest,
    names_of,
)
from dragonfly.kube.resources import Object
from dragonfly.settings import Address, Settings
from dragonfly.store import keys, schema
from dragonfly.store.errors import SchemaUnknown, StoreError
from dragonfly.store.gateway import Gateway
from dragonfly.store.settings import etcd_settings

_AFTER_REPLICAS: Final = FoundEtcd | JoinEtcd | GiveEtcd | AwaitReplicas | SelfTest
"""What comes once the new replicas are put into the cluster."""

_OTHERS: Final = ("deployment.kubernetes.io/", "kubectl.kubernetes.io/last-applied")
"""Annotations by which others keep their own books."""


class Workload(Protocol):
    """What an installation has in the cluster, as far as an upgrade changes it by itself."""

    def found(self, names: Iterable[Gone]) -> list[Object]:
        """Return those of these objects that are there."""

    def put_back(self, former: Iterable[Object], added: Iterable[Gone], say: Callable[[str], None]) -> None:
        """Make objects again what they were, take out those that were added, and wait until the replicas are ready.

        Raises:
            StepFailed: it can't be, or does not get ready.
        """


class Underway(msgspec.Struct, frozen=True):
    """An upgrade that has begun on this host and not ended."""

    former: list[Object] = []
    """What it changes in the cluster, as that was before; none if it has changed this host alone."""
    before: str = ""
    """The cluster's record of its installation when it was said last; empty if there was none."""
    target: str = ""
    """What it makes of the record; empty if an older Dragonfly began it."""
    asked: Options | None = None
    """Of this host, before; None if an older Dragonfly began it."""

    def is_current(self, text: str) -> bool:
        """Whether it is to be gone on with where the record is this: nobody has changed that since."""
        return not self.target or text in {self.before, self.target}


class WentBack(Exception):
    """The new version did not get ready, and the former one serves again; the message says what was wrong."""


class Overtaken(Exception):
    """The new version did not get ready, and another server has changed the installation since: that one's word stands.

    The message says what was wrong; nothing was put back.
    """


def upgrade(  # noqa: PLR0917 - one call
    plan: Plan,
    hands: Hands,
    workload: Workload,
    journal: Journal,
    tell: Tell,
    before: str = "",
    target: str = "",
    asked: Options | None = None,
) -> str:
    """Carry out the new plan, and return the swarm's address, if the plan goes so far.

    Args:
        before: the cluster's record of its installation.
        target: what the upgrade makes of it, in the end if not with this plan.
        asked: of this host before the upgrade; one that is gone on with keeps what it has.

    Raises:
        WentBack: the replicas of the new version did not become ready.
        Overtaken: nor did they here, and what is to be in the cluster is another server's by now.
        Stopped: another step failed; what stands is told.
        StepFailed: the way back failed as well.
    """
    former = _kept(plan, journal, workload, before, target, asked)
    try:
        address = install(plan, hands, journal, tell)
    except Stopped as stopped:
        if not former or not _is_to_go_back(stopped):
            raise
        _go_back(stopped, plan, former, hands, workload, journal, tell)
    abandon(journal)
    return address


def _is_to_go_back(stopped: Stopped) -> bool:
    """Whether new replicas may be there and can't stay. If the cluster just does not answer, the upgrade can go on."""
    action = stopped.step.action
    if isinstance(action, ApplyObjects):
        return not action.keeps and isinstance(stopped.reason, Refused)
    return isinstance(action, _AFTER_REPLICAS)


def check_schema(access_secret: Object) -> None:
    """Look whether this version knows the layout of what is in etcd.

    Args:
        access_secret: the Secret that says where etcd is.

    Raises:
        StepFailed: it does not, or etcd does not answer.
    """
    found = secret.access(access_secret)
    settings = secret.with_access(_nothing_set(), found)
    try:
        with contextlib.closing(Gateway.open(etcd_settings(settings))) as gateway:
            schema.check(gateway.read(keys.SCHEMA)[0])
    except SchemaUnknown as error:
        raise StepFailed(
            f"etcd holds layout version {error.found}, and this Dragonfly knows {error.known}",
            "Upgrade with the version that the replicas have, or a newer one.",
        ) from error
    except (StoreError, OSError) as error:
        raise StepFailed(f"etcd does not tell its layout: {error}") from error


def _nothing_set() -> Settings:
    """A replica's settings that say nothing of etcd."""
    return Settings(advertise=Address("127.0.0.1", 3000), replica="upgrade")


def underway(journal: Journal) -> Underway | None:
    """Return the upgrade that has begun and not ended; None if there is none.

    Raises:
        UnknownJournal: what was kept of it cannot be read.
    """
    if not journal.former.exists():
        return None
    try:
        # An older Dragonfly kept the objects alone.
        found = msgspec.json.decode(journal.former.read_bytes(), type=Underway | list[Object])
    except msgspec.DecodeError as error:
        raise UnknownJournal(
            f"{journal.former} cannot be read: {error}. It says what the replicas were before an upgrade that has not "
            "ended: put the file back as it was, or remove it, whereupon an upgrade has nothing to go back to"
        ) from error
    return found if isinstance(found, Underway) else Underway(found)


def abandon(journal: Journal) -> None:
    """Forget an upgrade that has begun: there is nothing to go back to any more."""
    journal.former.unlink(missing_ok=True)


def _kept(  # noqa: PLR0917 - one call
    plan: Plan, journal: Journal, workload: Workload, before: str, target: str, asked: Options | None
) -> list[Object]:
    """Return what the objects were before the upgrade, also before one that a crash ended."""
    known, changed = underway(journal), _changed(plan)
    former = known.former if known else []
    if changed and not former:
        former = workload.found(changed)
    journal.keep_former(msgspec.json.encode(Underway(former, before, target, known.asked if known else asked)))
    return former


def _changed(plan: Plan) -> list[Gone]:
    """Return the names of the objects that a plan applies, those that come first last."""
    return [name for step in reversed(plan.steps) for name in names_of(_applied(step.action))]


def _applied(action: Action) -> tuple[Object, ...]:
    match action:
        case ApplyObjects(objects, keeps=False):
            return objects
        case KeepRecord(record):
            return (record,)
    return ()


def _added(plan: Plan, former: list[Object]) -> list[Gone]:
    """Return the names of those that were not there before."""
    known = set(names_of(tuple(former)))
    return [name for name in _changed(plan) if name not in known]


def _go_back(  # noqa: PLR0917 - one call
    stopped: Stopped,
    plan: Plan,
    former: list[Object],
    hands: Hands,
    workload: Workload,
    journal: Journal,
    tell: Tell,
) -> NoReturn:
    """Put back what the upgrade has changed, the record before what follows from it.

    Raises:
        WentBack: all of it is.
        Overtaken: the record is not the one that the upgrade has written; all is left as it is.
        StepFailed: something could not be put back.
    """

    def say(text: str) -> None:
        tell(Event("progress", "go-back", text))

    tell(Event("step", "go-back", "Put the former replicas back", "started"))
    try:
        added = _added(plan, former)
        if action := _record_kept(plan):
            _put_record_back(action, former, hands, workload, say)
        workload.put_back([obj for obj in former if not _is_record(obj)], added, say)
    except RecordChanged as error:
        tell(Event("step", "go-back", f"{error}; nothing is put back", "failed"))
        abandon(journal)
        raise Overtaken(str(stopped)) from stopped
    except StepFailed as error:
        tell(Event("step", "go-back", str(error), "failed"))
        raise
    tell(Event("step", "go-back", "the former replicas serve", "done"))
    abandon(journal)
    raise WentBack(str(stopped)) from stopped


def _put_record_back(
    action: KeepRecord, former: list[Object], hands: Hands, workload: Workload, say: Callable[[str], None]
) -> None:
    """Make the record what it was, if it is what the upgrade has made of it. One that was not there goes with the rest.

    Tinkerbell stays, and so does what the record says of it.

    Raises:
        RecordChanged: another server has changed it.
        StepFailed: it cannot be put back.
    """
    tried = text_of(action.object)
    if known := next(filter(_is_record, former), None):
        back = as_object(gone_back(text_of(known), tried))
        hands.carry_out(KeepRecord(back, tried), say)
        return
    for found in workload.found(names_of((action.object,))):
        if text_of(found) != tried:
            raise RecordChanged


def _record_kept(plan: Plan) -> KeepRecord | None:
    return next((step.action for step in plan.steps if isinstance(step.action, KeepRecord)), None)


def _is_record(obj: Object) -> bool:
    return bool(obj["kind"] == RECORD.resource.kind and obj["metadata"]["name"] == RECORD.name)


def restored(obj: Object) -> Object:
    """Return what to apply to have an object as it was seen: nothing of its status or its history."""
    kept = {key: obj["metadata"][key] for key in ("name", "namespace", "labels") if key in obj["metadata"]}
    annotations = obj["metadata"].get("annotations", {})
    if own := {key: value for key, value in annotations.items() if not key.startswith(_OTHERS)}:
        kept["annotations"] = own
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": kept}
