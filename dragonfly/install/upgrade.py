"""Upgrades what is installed: the plan of the new version, and the way back if its replicas don't become ready.

Replicas are replaced one by one, each after its successor is ready, so the swarm serves all the while, by the former
version alone if the new one never gets ready. What is put back is all that the new version changes in the cluster's own
objects: the Deployment, and rights, Service and policies with it. It is on the disk before anything is changed.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from dragonfly.install import secret
from dragonfly.install.execution import Event, Hands, StepFailed, Stopped, Tell, install
from dragonfly.install.journal import Journal
from dragonfly.install.steps import ApplyObjects, AwaitReplicas, Gone, Plan, SelfTest, names_of
from dragonfly.kube.resources import Object
from dragonfly.settings import Address, Settings
from dragonfly.store import keys, schema
from dragonfly.store.errors import SchemaUnknown, StoreError
from dragonfly.store.gateway import Gateway
from dragonfly.store.settings import etcd_settings

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


class WentBack(Exception):
    """The new version did not get ready, and the former one serves again; the message says what was wrong."""


def upgrade(plan: Plan, hands: Hands, workload: Workload, journal: Journal, tell: Tell) -> str:
    """Carry out the new plan, and return the swarm's address.

    Raises:
        WentBack: the replicas of the new version did not become ready.
        Stopped: another step failed; what stands is told.
        StepFailed: the way back failed as well.
    """
    former = _kept(plan, journal, workload)
    try:
        address = install(plan, hands, journal, tell)
    except Stopped as stopped:
        if not former or not isinstance(stopped.step.action, AwaitReplicas | SelfTest):
            raise
        _go_back(former, _added(plan, former), workload, tell)
        _forget(journal)
        raise WentBack(str(stopped)) from stopped
    _forget(journal)
    return address


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


def _kept(plan: Plan, journal: Journal, workload: Workload) -> list[Object]:
    """Return what the objects were before the upgrade, also before one that a crash ended."""
    file = journal.former
    if not file.exists():
        new = file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(workload.found(_changed(plan))))
        new.replace(file)
    former: list[Object] = msgspec.json.decode(file.read_bytes())
    return former


def _changed(plan: Plan) -> list[Gone]:
    """Return the names of the objects that a plan applies, those that come first last."""
    actions = [step.action for step in plan.steps]
    return [
        name
        for action in reversed(actions)
        if isinstance(action, ApplyObjects) and not action.keeps
        for name in names_of(action.objects)
    ]


def _added(plan: Plan, former: list[Object]) -> list[Gone]:
    """Return the names of those that were not there before."""
    known = set(names_of(tuple(former)))
    return [name for name in _changed(plan) if name not in known]


def _go_back(former: list[Object], added: list[Gone], workload: Workload, tell: Tell) -> None:
    tell(Event("step", "go-back", "Put the former replicas back", "started"))
    try:
        workload.put_back(former, added, lambda text: tell(Event("progress", "go-back", text)))
    except StepFailed as error:
        tell(Event("step", "go-back", str(error), "failed"))
        raise
    tell(Event("step", "go-back", "the former replicas serve", "done"))


def _forget(journal: Journal) -> None:
    journal.former.unlink(missing_ok=True)


def restored(obj: Object) -> Object:
    """Return what to apply to have an object as it was seen: nothing of its status or its history."""
    kept = {key: obj["metadata"][key] for key in ("name", "namespace", "labels") if key in obj["metadata"]}
    annotations = obj["metadata"].get("annotations", {})
    if own := {key: value for key, value in annotations.items() if not key.startswith(_OTHERS)}:
        kept["annotations"] = own
    return {**{key: value for key, value in obj.items() if key != "status"}, "metadata": kept}
