"""Upgrades what is installed: the plan of the new version, and the way back if its replicas don't become ready.

Replicas are replaced one by one, each after its successor is ready, so the swarm serves all the while, by the former
version alone if the new one never gets ready. What the former one was is on the disk before anything is changed.
"""

import contextlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from dragonfly.install import secret
from dragonfly.install.execution import Event, Hands, StepFailed, Stopped, Tell, install
from dragonfly.install.journal import Journal
from dragonfly.install.manifests import NAME, NAMESPACE
from dragonfly.install.steps import AwaitReplicas, Plan, SelfTest
from dragonfly.kube.resources import Object
from dragonfly.settings import Address, Settings
from dragonfly.store import keys, schema
from dragonfly.store.errors import SchemaUnknown, StoreError
from dragonfly.store.gateway import Gateway
from dragonfly.store.settings import etcd_settings


class Workload(Protocol):
    """The replicas' Deployment, as far as an upgrade changes it by itself."""

    def deployment(self) -> Object | None:
        """Return it; None if it is not there."""

    def put_back(self, deployment: Object, say: Callable[[str], None]) -> None:
        """Make it again what it was, and wait until it is ready.

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
    former = _kept(journal, workload)
    try:
        address = install(plan, hands, journal, tell)
    except Stopped as stopped:
        if former is None or not isinstance(stopped.step.action, AwaitReplicas | SelfTest):
            raise
        _go_back(former, workload, tell)
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


def _kept(journal: Journal, workload: Workload) -> Object | None:
    """Return what the Deployment was before the upgrade, also of one that a crash ended."""
    file = journal.former
    if not file.exists():
        found = workload.deployment()
        if found is None:
            return None
        new = file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(found))
        new.replace(file)
    former: Object = msgspec.json.decode(file.read_bytes())
    return former


def _go_back(former: Object, workload: Workload, tell: Tell) -> None:
    tell(Event("step", "go-back", "Put the former replicas back", "started"))
    try:
        workload.put_back(former, lambda text: tell(Event("progress", "go-back", text)))
    except StepFailed as error:
        tell(Event("step", "go-back", str(error), "failed"))
        raise
    tell(Event("step", "go-back", "the former replicas serve", "done"))


def _forget(journal: Journal) -> None:
    journal.former.unlink(missing_ok=True)


def restored(deployment: Object) -> Object:
    """Return what to apply to have a Deployment as it was seen: nothing of its status or its history."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": deployment["metadata"].get("labels", {})},
        "spec": deployment["spec"],
    }
