"""An upgrade whose replicas don't get ready goes back to what was there before it, whatever ended the first try."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dragonfly.install.execution import Event, RecordChanged, Refused, StepFailed, Stopped
from dragonfly.install.journal import Journal
from dragonfly.install.recorded import Record, as_object, gone_back, text_of, written
from dragonfly.install.rollouts import pods_trouble, rollout_problem
from dragonfly.install.steps import (
    Action,
    ApplyObjects,
    AwaitNode,
    AwaitReplicas,
    FoundEtcd,
    Gone,
    JoinEtcd,
    KeepRecord,
    Plan,
    Step,
    Undo,
    names_of,
)
from dragonfly.install.upgrade import Overtaken, Underway, WentBack, abandon, restored, underway, upgrade

Objects = dict[str, Any]


def deployment(image: str) -> Objects:
    metadata = {"name": "dragonfly", "namespace": "dragonfly", "labels": {"a": "b"}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"image": image}}


def role(name: str, verb: str) -> Objects:
    metadata = {"name": name, "namespace": "dragonfly"}
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": [verb]}


FORMER = [role("old", "get"), deployment("v1")]
NEW = [role("old", "list"), role("new", "get"), deployment("v2")]
PLAN = Plan(
    (
        Step("manifests", "Change the objects", "changed", "", ApplyObjects(tuple(NEW))),
        Step("replicas", "Wait", "ready", "", AwaitReplicas("dragonfly", "dragonfly", 1)),
    )
)


class Cluster:
    """Hands and workload of a cluster with a few objects."""

    def __init__(self) -> None:
        self.now: list[Objects] = FORMER
        self.fails_at: tuple[type, ...] = ()
        self.failure = StepFailed("2 of 3 replicas are ready")
        self.cannot_go_back = False
        self.meanwhile = ""
        """The record that another server makes while the new replicas are waited for."""

    def is_done(self, action: Action, proof: str) -> bool:
        return False

    def undo_of(self, step: str, action: Action) -> tuple[Undo, ...]:
        return ()

    def carry_out(self, action: Action, say: Callable[[str], None]) -> str:
        if isinstance(action, self.fails_at):
            if isinstance(action, ApplyObjects):
                self.now = [deployment("v2"), *self.now[:-1]]
            if self.meanwhile:
                self._keep(as_object(self.meanwhile))
            raise self.failure
        if isinstance(action, ApplyObjects):
            self.now = [*NEW, *(obj for obj in self.now if obj["kind"] == "ConfigMap")]
        if isinstance(action, KeepRecord):
            if action.before not in {None, self.record}:
                raise RecordChanged
            self._keep(action.object)
        return ""

    @property
    def record(self) -> str:
        return text_of(next((obj for obj in self.now if obj["kind"] == "ConfigMap"), None))

    def _keep(self, record: Objects) -> None:
        self.now = [*(obj for obj in self.now if obj["kind"] != "ConfigMap"), record]

    def take_back(self, undo: Undo, say: Callable[[str], None]) -> str:
        return ""

    def found(self, names: Iterable[Gone]) -> list[Objects]:
        return [obj for name in names for obj in self.now if names_of((obj,)) == (name,)]

    def put_back(self, former: Iterable[Objects], added: Iterable[Gone], say: Callable[[str], None]) -> None:
        if self.cannot_go_back:
            raise StepFailed("the former ones don't get ready either")
        gone = set(added)
        there = {names_of((obj,))[0]: obj for obj in (*self.now, *former)}
        self.now = [obj for name, obj in there.items() if name not in gone]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "install")
    journal.installed("http://10.0.0.1:3000")
    return journal


def upgraded(cluster: Cluster, journal: Journal) -> list[Event]:
    told: list[Event] = []
    upgrade(PLAN, cluster, cluster, journal, told.append)
    return told


def test_an_upgrade_that_goes_well_leaves_nothing_to_go_back_to(cluster: Cluster, journal: Journal) -> None:
    upgraded(cluster, journal)

    assert cluster.now == NEW
    assert not journal.former.exists()


def test_replicas_that_dont_get_ready_are_replaced_by_the_former(cluster: Cluster, journal: Journal) -> None:
    cluster.fails_at = (AwaitReplicas,)

    with pytest.raises(WentBack, match="2 of 3 replicas are ready"):
        upgraded(cluster, journal)

    assert cluster.now == FORMER
    assert not journal.former.exists()


def test_what_the_former_was_survives_a_crash_in_between(cluster: Cluster, journal: Journal) -> None:
    cluster.fails_at = (AwaitReplicas,)
    cluster.cannot_go_back = True
    with pytest.raises(StepFailed):
        upgraded(cluster, journal)
    assert cluster.now == NEW
    cluster.cannot_go_back = False

    with pytest.raises(WentBack):
        upgraded(cluster, journal)

    assert cluster.now == FORMER


def test_an_upgrade_that_was_killed_knows_what_it_was_to_become(cluster: Cluster, journal: Journal) -> None:
    cluster.fails_at = (ApplyObjects,)
    with pytest.raises(Stopped):
        upgrade(PLAN, cluster, cluster, journal, lambda _: None, "v1", "v2")

    begun = underway(journal)

    assert begun is not None
    assert (begun.before, begun.target) == ("v1", "v2")
    assert (begun.is_current("v1"), begun.is_current("v2"), begun.is_current("another's")) == (True, True, False)
    abandon(journal)
    assert underway(journal) is None


def test_what_a_host_did_for_itself_is_nothing_to_go_back_to(cluster: Cluster, journal: Journal) -> None:
    """The cluster's part comes with a later call, and what that goes back to is what there was before it."""
    own = Plan((Step("node", "Wait", "ready", "", AwaitNode("host-1")),))
    cluster.fails_at = (AwaitNode,)
    with pytest.raises(Stopped):
        upgrade(own, cluster, cluster, journal, lambda _: None, "v1", "v2")
    assert underway(journal) == Underway([], "v1", "v2")
    cluster.fails_at = (AwaitReplicas,)

    with pytest.raises(WentBack):
        upgraded(cluster, journal)

    assert cluster.now == FORMER


def test_what_an_older_version_kept_is_gone_back_to_as_well(cluster: Cluster, journal: Journal) -> None:
    journal.former.write_bytes(msgspec.json.encode(list(reversed(FORMER))))
    cluster.now = NEW
    cluster.fails_at = (AwaitReplicas,)

    with pytest.raises(WentBack):
        upgraded(cluster, journal)

    assert cluster.now == FORMER


BEFORE = written(Record(host="host-1", address="10.0.0.1", etcd="shared", image="v1"))
TRIED = written(Record(host="host-2", address="10.0.0.2", etcd="shared", image="v2"))


def upgraded_with_record(cluster: Cluster, journal: Journal, before: str) -> None:
    first = Step("record", "Record it", "recorded", "", KeepRecord(as_object(TRIED), before))
    upgrade(Plan((first, *PLAN.steps)), cluster, cluster, journal, lambda _: None, before, TRIED)


def test_the_record_goes_back_with_the_replicas(cluster: Cluster, journal: Journal) -> None:
    cluster.now = [as_object(BEFORE), *FORMER]
    cluster.fails_at = (AwaitReplicas,)

    with pytest.raises(WentBack):
        upgraded_with_record(cluster, journal, BEFORE)

    assert cluster.record == gone_back(BEFORE, TRIED)
    assert [obj for obj in cluster.now if obj["kind"] != "ConfigMap"] == FORMER


def test_a_record_that_was_not_there_goes_with_what_else_was_added(cluster: Cluster, journal: Journal) -> None:
    cluster.fails_at = (AwaitReplicas,)

    with pytest.raises(WentBack):
        upgraded_with_record(cluster, journal, "")

    assert cluster.now == FORMER


@pytest.mark.parametrize("before", [BEFORE, ""])
def test_one_that_goes_back_leaves_alone_what_another_server_has_made_meanwhile(
    cluster: Cluster, journal: Journal, before: str
) -> None:
    """The replicas too: they are what that one's record says, or are about to be."""
    anothers = written(Record(host="host-3", address="10.0.0.3", etcd="shared", image="v3"))
    cluster.now = [*([as_object(before)] if before else []), *FORMER]
    cluster.fails_at, cluster.meanwhile = (AwaitReplicas,), anothers

    with pytest.raises(Overtaken, match="2 of 3 replicas are ready"):
        upgraded_with_record(cluster, journal, before)

    assert cluster.record == anothers
    assert [obj for obj in cluster.now if obj["kind"] != "ConfigMap"] == NEW
    assert underway(journal) is None, "there is nothing to go back to any more"


@pytest.mark.parametrize("action", [JoinEtcd("host-1", "10.0.0.1"), FoundEtcd("host-1", "10.0.0.1")])
def test_the_swarms_own_etcd_that_does_not_answer_after_them_is_one(
    cluster: Cluster, journal: Journal, action: Action
) -> None:
    """The objects have been changed by then, that etcd's own among them."""
    cluster.fails_at = (type(action),)
    plan = Plan((PLAN.steps[0], Step("own-etcd", "Join", "joined", "", action), PLAN.steps[1]))

    with pytest.raises(WentBack):
        upgrade(plan, cluster, cluster, journal, lambda _: None)

    assert cluster.now == FORMER


def test_a_step_before_them_is_no_reason_to_go_back(cluster: Cluster, journal: Journal) -> None:
    cluster.fails_at = (ApplyObjects,)

    with pytest.raises(Stopped):
        upgraded(cluster, journal)

    assert journal.former.exists()


def test_objects_of_which_one_is_refused_go_back_with_those_that_were_taken(cluster: Cluster, journal: Journal) -> None:
    cluster.fails_at, cluster.failure = (ApplyObjects,), Refused("Role new is refused: exceeded quota")

    with pytest.raises(WentBack, match="exceeded quota"):
        upgraded(cluster, journal)

    assert sorted(cluster.now, key=str) == sorted(FORMER, key=str)


def test_what_is_put_back_has_no_history() -> None:
    annotations = {"deployment.kubernetes.io/revision": "7", "dragonfly.io/rolled": "once"}
    history = {"uid": "1", "resourceVersion": "9", "managedFields": [], "annotations": annotations}
    seen = deployment("v1") | {"status": {"replicas": 3}}
    seen["metadata"] |= history

    wanted = deployment("v1")
    wanted["metadata"] |= {"annotations": {"dragonfly.io/rolled": "once"}}
    assert restored(seen) == wanted


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({}, "the change was not noticed yet"),
        ({"observedGeneration": 2, "updatedReplicas": 1}, "1 of 3 replicas are new"),
        ({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}, "a former replica still runs"),
        (
            {"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "readyReplicas": 2},
            "2 of 3 replicas are ready",
        ),
        (
            {
                "observedGeneration": 2,
                "conditions": [{"type": "ReplicaFailure", "status": "True", "message": "forbidden"}],
            },
            "pods cannot be made: forbidden",
        ),
        ({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "readyReplicas": 3}, ""),
    ],
)
def test_what_a_rollout_waits_for(status: dict[str, Any], problem: str) -> None:
    deployment = {"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status}

    assert rollout_problem(deployment) == problem


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "dragonfly-1"}, "status": status}


def waiting(reason: str) -> dict[str, Any]:
    return pod(containerStatuses=[{"state": {"waiting": {"reason": reason, "message": "it says why"}}}])


@pytest.mark.parametrize(
    ("pods", "trouble"),
    [
        ([], ""),
        ([pod(), waiting("ContainerCreating"), pod(containerStatuses=[{"state": {"running": {}}}])], ""),
        ([pod(), waiting("ImagePullBackOff")], "pod dragonfly-1: ImagePullBackOff: it says why"),
        (
            [pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "insufficient memory"}])],
            "pod dragonfly-1 has no node: insufficient memory",
        ),
    ],
)
def test_pods_say_why_they_do_not_start(pods: list[dict[str, Any]], trouble: str) -> None:
    assert pods_trouble(pods) == trouble
